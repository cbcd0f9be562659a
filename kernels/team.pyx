# cython: boundscheck=False, wraparound=False
"""Python callables on the threads that run the kernels.

Two thread pools on the same cores wait for each other: an OpenMP thread that spins after a kernel keeps
the core from a library's own worker for milliseconds.  Calls that release the GIL (transforms of blocks
of lines) are therefore made from the OpenMP team itself.
"""

from cython.parallel cimport prange


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
