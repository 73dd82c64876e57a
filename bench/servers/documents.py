"""What the servers of bench/compressing.py send: JSON as applications have it, the same on every run."""

import json
import random


def document(size: int, seed: int) -> str:
    """A list of records, of about so many bytes."""
    rng = random.Random(seed)
    cities = ["Lisbon", "Oslo", "Kyoto", "Quito", "Tunis", "Perth", "Gdansk", "Lima"]
    records: list[dict[str, object]] = []
    while len(json.dumps(records)) < size:
        records.append(
            {
                "id": rng.randrange(10**9),
                "name": f"sensor-{rng.randrange(1000):03}",
                "city": rng.choice(cities),
                "at": f"2026-11-{rng.randrange(1, 31):02}T{rng.randrange(24):02}:{rng.randrange(60):02}:00Z",
                "value": round(rng.gauss(20, 5), 3),
                "tags": rng.sample(["indoor", "outdoor", "battery", "mains", "spare"], 2),
                "ok": rng.random() < 0.95,
            }
        )
    return json.dumps(records)


# Many, for one that is sent over and over costs nothing where contexts are kept.
DOCUMENTS = {
    "small": [document(2000, seed) for seed in range(128)],
    "large": [document(30_000, seed) for seed in range(16)],
}
