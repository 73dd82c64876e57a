import pytest

# Its rules are tests; a module that is only imported would say nothing of what was compared.
pytest.register_assert_rewrite(f"{__name__}.behind")
