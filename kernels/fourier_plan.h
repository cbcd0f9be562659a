/* Plans of the compiled Fourier transforms (fourier.pyx); shared between threads, never written after they are made. */
#ifndef BIOPERF_FOURIER_PLAN_H
#define BIOPERF_FOURIER_PLAN_H

#include <stddef.h>

#define FOURIER_LEVELS 40

/* Transforms of n complex numbers: n = radix[0] radix[1] ..., decimated in frequency, in place. */
typedef struct {
    ptrdiff_t n;
    int levels, radix[FOURIER_LEVELS];
    void *twiddles[FOURIER_LEVELS];  /* radix - 1 complex numbers for each j < (the length that is left) / radix */
    void *halves;                    /* exp(-i pi k / n) / 2, k = 0 ... n: for the spectra of 2n real numbers */
    ptrdiff_t *order;                /* order[k], k = 0 ... n: where the result k stands; n is 0 again */
    ptrdiff_t *frequency;            /* frequency[i], i < n: which result stands at i; from n on that of the inverse */
} FourierLine;

typedef struct FourierPlan FourierPlan;

/* The image is n0 x n1 x n2, the last axis n2, the first of several n0, the middle one of three n1. Work is cut into
 * units, whose results do not depend on who does them. */
struct FourierPlan {
    int axes, complex_image, single, lanes;
    int parity;  /* 1: real rows of odd length, transformed in pairs */
    int packed;  /* columns 0 and n2 / 2 are transformed as one */
    ptrdiff_t n0, n1, n2, columns, columns_used, row_units, plane_units, column_units[2], panels[2], room;
    size_t image_bytes, spectrum_bytes, work_bytes;
    FourierLine line[3];  /* axes n0, n1 and n2 */
    void *tables;
    void (*rows_forward)(const FourierPlan *, const void *image, void *spectrum, ptrdiff_t unit, void *work);
    void (*rows_inverse)(const FourierPlan *, const void *spectrum, void *image, ptrdiff_t unit, void *work);
    void (*along)(const FourierPlan *, int axis, int inverse, void *spectrum, ptrdiff_t unit, void *work);
    void (*pack)(const FourierPlan *, void *spectrum);
    void (*unpack)(const FourierPlan *, void *spectrum);
};

#endif
