# cython: boundscheck=False, wraparound=False
"""Python callables on the threads that run the kernels.

Two thread pools on the same cores wait for each other: an OpenMP thread that spins after a kernel keeps
the core from a library's own worker for milliseconds.  Calls that release the GIL (transforms of blocks
of lines) are therefore made from the OpenMP team itself.
"""

from cython.parallel cimport prange


cdef extern from "omp.h" nogil:
    int omp_pause_resource_all(int)


cdef void call(list tasks, list errors, Py_ssize_t i) noexcept nogil:
    with gil:
        try:
            tasks[i]()
        except BaseException as error:
            errors.append(error)


def run_tasks(list tasks):
    """Call every task, one on each thread; raise the first error after all have ended."""
    cdef int count = len(tasks)
    cdef Py_ssize_t i
    cdef list errors = []
    for i in prange(count, nogil=True, num_threads=count, schedule="static", chunksize=1):
        call(tasks, errors, i)
    if errors:
        raise errors[0]


def end_threads():
    """End this thread's idle team; the next parallel loop starts a new one.

    A forked process inherits the team's records without its threads, and its first parallel loop would wait for them
    for ever: ``os.fork`` calls this before.
    """
    omp_pause_resource_all(1)
