/* libFuzzer around a function of Python: fuzz.targets.runner($UWS_FUZZ_TARGET), which raises what is wrong.

   What is fuzzed is C that Cython made, built with coverage and sanitizers into modules that Python loads; they find
   libFuzzer and the sanitizers in this program. Where it is Python that is fuzzed (UWS_FUZZ_LINES), its lines count
   instead: libFuzzer takes counters that it did not put there itself from the section named below.
   Built and started by tools/fuzz.py, which sets Python's path. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { LINES = 1 << 14 };
__attribute__((section("__libfuzzer_extra_counters"), aligned(16))) static uint8_t lines[LINES];

static PyObject *run;
static const char *lines_of;

static void die(void)
{
    PyErr_Print();
    /* libFuzzer keeps the input and says where it put it. */
    abort();
}

/* FNV-1a: the same in each process, which addresses and Python's own hashes are not. */
static uint32_t hashed(const char *text)
{
    uint32_t hash = UINT32_C(2166136261);
    for (; *text != '\0'; text++)
        hash = (hash ^ (uint8_t)*text) * UINT32_C(16777619);
    return hash;
}

/* Counts how often control went from one line to another. */
static int on_line(PyObject *unused, PyFrameObject *frame, int what, PyObject *arg)
{
    static uint32_t last;
    PyCodeObject *code;
    const char *path;
    uint32_t here;
    (void)unused;
    (void)arg;
    if (what != PyTrace_LINE)
        return 0;
    code = PyFrame_GetCode(frame);
    path = PyUnicode_AsUTF8(code->co_filename);
    if (path == NULL) {
        Py_DECREF(code);
        return -1;
    }
    if (strstr(path, lines_of) != NULL) {
        here = (uint32_t)PyFrame_GetLineNumber(frame) * UINT32_C(2654435761) ^ hashed(path);
        lines[(here ^ last) % LINES]++;
        last = here >> 1;
    }
    Py_DECREF(code);
    return 0;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *name = getenv("UWS_FUZZ_TARGET");
    PyObject *module;
    (void)argc;
    (void)argv;
    lines_of = getenv("UWS_FUZZ_LINES");
    /* Signals stay libFuzzer's. */
    Py_InitializeEx(0);
    if (name == NULL || (module = PyImport_ImportModule("fuzz.targets")) == NULL
        || (run = PyObject_CallMethod(module, "runner", "s", name)) == NULL)
        die();
    if (lines_of != NULL)
        PyEval_SetTrace(on_line, NULL);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    PyObject *input = PyBytes_FromStringAndSize((const char *)data, (Py_ssize_t)size);
    PyObject *result = input == NULL ? NULL : PyObject_CallOneArg(run, input);
    if (result == NULL)
        die();
    Py_DECREF(result);
    Py_DECREF(input);
    return 0;
}
