/* Included by balls.h once for float and once for double. */

/* w <- relaxation t + (1 - relaxation)(w - c) + dual_scale c with c = clip(w, bound); m = |w| */
ROW NAME(measured_coefficients)(int parts, ptrdiff_t n, const REAL *restrict t, REAL *restrict w, REAL relaxation,
                                REAL bound, REAL dual_scale, REAL *restrict m)
{
    const REAL kept = 1 - relaxation, carried = dual_scale - kept;
    if (parts == 1) {
        SIMD() for (ptrdiff_t j = 0; j < n; j++) {
            REAL a = relaxation * t[j] + (kept * w[j] + carried * NAME(clip)(w[j], bound));
            w[j] = a;
            m[j] = NAME(absolute)(a);
        }
    } else {
        SIMD() for (ptrdiff_t j = 0; j < n; j++) {
            REAL re = w[2 * j], im = w[2 * j + 1];
            REAL factor = kept + carried * NAME(ball_scale)(SQRT(re * re + im * im), bound);
            re = relaxation * t[2 * j] + factor * re;
            im = relaxation * t[2 * j + 1] + factor * im;
            w[2 * j] = re;
            w[2 * j + 1] = im;
            m[j] = SQRT(re * re + im * im);
        }
    }
}

/* out = weight (w - 2 clip(w, bound)) */
ROW NAME(reflected_coefficients)(int parts, ptrdiff_t n, const REAL *restrict w, REAL bound, REAL weight,
                                 REAL *restrict out)
{
    if (parts == 1) {
        SIMD() for (ptrdiff_t j = 0; j < n; j++) out[j] = weight * (w[j] - 2 * NAME(clip)(w[j], bound));
    } else {
        SIMD() for (ptrdiff_t j = 0; j < n; j++) {
            REAL re = w[2 * j], im = w[2 * j + 1];
            REAL factor = weight * (1 - 2 * NAME(ball_scale)(SQRT(re * re + im * im), bound));
            out[2 * j] = factor * re;
            out[2 * j + 1] = factor * im;
        }
    }
}

/* acc[0] += sum of max(m - t, 0), acc[1] += how many exceed t */
ROW NAME(excess)(ptrdiff_t n, const REAL *restrict m, REAL t, double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL s = 0, k = 0;
        SIMD(reduction(+ : s, k)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL above = m[j] - t;
            s += above > 0 ? above : 0;
            k += above > 0 ? (REAL)1 : (REAL)0;
        }
        acc[0] += s;
        acc[1] += k;
    }
}

/* acc[0] = max(acc[0], m) */
ROW NAME(largest)(ptrdiff_t n, const REAL *restrict m, double *restrict acc)
{
    REAL top = 0;
    SIMD(reduction(max : top)) for (ptrdiff_t j = 0; j < n; j++) top = m[j] > top ? m[j] : top;
    acc[0] = top > acc[0] ? top : acc[0];
}

/* --- spectra: n interleaved complex coefficients ------------------------------------------------------ */

/* r <- X = (linear + r) inverse */
ROW NAME(spectrum_step)(ptrdiff_t n, REAL *restrict r, const REAL *restrict linear, const REAL *restrict inverse)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        r[2 * j] = (linear[2 * j] + r[2 * j]) * inverse[j];
        r[2 * j + 1] = (linear[2 * j + 1] + r[2 * j + 1]) * inverse[j];
    }
}

/* With s = 1 / (1 + curvature gram):
 * r <- X = (r + base + penalty (observed + (2 s - 1) z)) inverse, then where gram > 0
 * z <- relaxation (X - observed) + ((1 - relaxation) s + dual_scale (1 - s)) z, power = factor |z|^2 */
ROW NAME(data_step)(ptrdiff_t n, REAL *restrict r, REAL *restrict z, REAL *restrict power, const REAL *restrict base,
                    const REAL *restrict observed, const REAL *restrict gram, const REAL *restrict inverse,
                    const REAL *restrict factor, REAL penalty, REAL curvature, REAL relaxation, REAL dual_scale)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL d = gram[j], s = 1 / (1 + curvature * d), pull = 2 * s - 1, on = d > 0 ? (REAL)1 : (REAL)0;
        REAL carry = ((1 - relaxation) * s + dual_scale * (1 - s)) * on, scale = relaxation * on;
        REAL yr = observed[2 * j], yi = observed[2 * j + 1], zr = z[2 * j], zi = z[2 * j + 1];
        REAL xr = (r[2 * j] + base[2 * j] + penalty * (yr + pull * zr)) * inverse[j];
        REAL xi = (r[2 * j + 1] + base[2 * j + 1] + penalty * (yi + pull * zi)) * inverse[j];
        zr = scale * (xr - yr) + carry * zr;
        zi = scale * (xi - yi) + carry * zi;
        r[2 * j] = xr;
        r[2 * j + 1] = xi;
        z[2 * j] = zr;
        z[2 * j + 1] = zi;
        power[j] = factor[j] * (zr * zr + zi * zi);
    }
}

/* acc[0] += sum of p / (1 + c d)^2, acc[1] += its derivative in c */
ROW NAME(shrunk_power)(ptrdiff_t n, const REAL *restrict p, const REAL *restrict d, REAL c, double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL value = 0, slope = 0;
        SIMD(reduction(+ : value, slope)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL s = 1 / (1 + c * d[j]), a = p[j] * s * s;
            value += a;
            slope += a * s * d[j];
        }
        acc[0] += value;
        acc[1] -= 2 * (double)slope;
    }
}
