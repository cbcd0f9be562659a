/* Included by rows.h once for float and once for double; see there. Pointers hold one row of n elements. */

INLINE REAL NAME(clip)(REAL q, REAL t)
{
    REAL lowered = q > t ? t : q;  /* in this form NaN stays NaN */
    return lowered < -t ? -t : lowered;
}

INLINE REAL NAME(absolute)(REAL a) { return a < 0 ? -a : a; }

/* Factor that shrinks a pixel of norm m to norm at most t. */
INLINE REAL NAME(ball_scale)(REAL m, REAL t)
{
    REAL larger = m > t ? m : t;
    return t / (larger > TINY ? larger : TINY);
}

/* --- gradient ---------------------------------------------------------------------------- */

ROW NAME(subtract)(ptrdiff_t n, const REAL *restrict b, const REAL *restrict a, REAL *restrict out)
{
    for (ptrdiff_t j = 0; j < n; j++) out[j] = b[j] - a[j];
}

/* out = grad^T p on one row: a the axis n0 (d > 1), b the axis n1 (d > 2), c the axis n2. */
INLINE void NAME(adjoint_body)(const int d, const int parts, ptrdiff_t n, const REAL *restrict a_before,
                               const REAL *restrict a, const REAL *restrict b_before, const REAL *restrict b,
                               const REAL *restrict c, REAL *restrict out)
{
    for (int k = 0; k < parts; k++) {
        out[k] = c[parts * (n - 1) + k] - c[k];
        if (d == 2) out[k] += a_before[k] - a[k];
        if (d == 3) out[k] += (a_before[k] - a[k]) + (b_before[k] - b[k]);
    }
    for (ptrdiff_t j = parts; j < parts * n; j++) {
        REAL step = c[j - parts] - c[j];
        if (d == 1) out[j] = step;
        if (d == 2) out[j] = step + (a_before[j] - a[j]);
        if (d == 3) out[j] = step + ((a_before[j] - a[j]) + (b_before[j] - b[j]));
    }
}

ROWS(adjoint, NAME(adjoint_body),
     (int d, ptrdiff_t n, const REAL *restrict a_before, const REAL *restrict a, const REAL *restrict b_before,
      const REAL *restrict b, const REAL *restrict c, REAL *restrict out),
     n, a_before, a, b_before, b, c, out)

/* --- elementwise ------------------------------------------------------------------------- */

ROW NAME(soft)(ptrdiff_t n, const REAL *x, REAL t, REAL *out)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) out[j] = x[j] - NAME(clip)(x[j], t);
}

ROW NAME(box)(ptrdiff_t n, const REAL *x, REAL lower, REAL upper, REAL *out)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL raised = x[j] < lower ? lower : x[j];
        out[j] = raised > upper ? upper : raised;
    }
}

ROW NAME(nonnegative)(ptrdiff_t n, const REAL *x, REAL *out)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) out[j] = x[j] < 0 ? 0 : x[j];
}

ROW NAME(affine)(ptrdiff_t n, const REAL *x, REAL scale, REAL shift, REAL *out)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) out[j] = scale * x[j] + shift;
}

ROW NAME(divide)(ptrdiff_t n, const REAL *z, const REAL *d, REAL *out)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        out[2 * j] = z[2 * j] / d[j];
        out[2 * j + 1] = z[2 * j + 1] / d[j];
    }
}

ROW NAME(sum)(ptrdiff_t n, const REAL *restrict x, double *restrict acc)
{
    FOR_CHUNKS(a, b, n) {
        REAL s = 0;
        SIMD(reduction(+ : s)) for (ptrdiff_t j = a; j < b; j++) s += x[j];
        acc[0] += s;
    }
}

/* Squares are summed in double: no overflow or underflow for any float input. */
ROW NAME(sum_squares)(ptrdiff_t n, const REAL *restrict x, double *restrict acc)
{
    double s = 0;
    SIMD(reduction(+ : s)) for (ptrdiff_t j = 0; j < n; j++) s += (double)x[j] * (double)x[j];
    acc[0] += s;
}

/* --- pixels of a field: d components of `parts` numbers, both known to the compiler, in lanes = d * parts ---
 *
 * Arrays of lanes live in these functions: inside a SIMD loop they would be kept in memory.                 */

INLINE void NAME(load)(const int d, const int parts, ptrdiff_t j, const REAL *restrict q0, const REAL *restrict q1,
                       const REAL *restrict q2, REAL v[6])
{
    for (int k = 0; k < parts; k++) {
        v[k] = q0[parts * j + k];
        if (d > 1) v[parts + k] = q1[parts * j + k];
        if (d > 2) v[2 * parts + k] = q2[parts * j + k];
    }
}

INLINE void NAME(store)(const int d, const int parts, ptrdiff_t j, const REAL v[6], REAL *restrict q0,
                        REAL *restrict q1, REAL *restrict q2)
{
    for (int k = 0; k < parts; k++) {
        q0[parts * j + k] = v[k];
        if (d > 1) q1[parts * j + k] = v[parts + k];
        if (d > 2) q2[parts * j + k] = v[2 * parts + k];
    }
}

/* g <- forward differences, from the row x and its forward neighbours x0..x2 */
INLINE void NAME(differences)(const int d, const int parts, ptrdiff_t j, const REAL *restrict x,
                              const REAL *restrict x0, const REAL *restrict x1, const REAL *restrict x2, REAL g[6])
{
    for (int k = 0; k < parts; k++) {
        g[k] = x0[parts * j + k] - x[parts * j + k];
        if (d > 1) g[parts + k] = x1[parts * j + k] - x[parts * j + k];
        if (d > 2) g[2 * parts + k] = x2[parts * j + k] - x[parts * j + k];
    }
}

INLINE REAL NAME(norm)(const int lanes, const REAL v[6])
{
    if (lanes == 1) return NAME(absolute)(v[0]);
    REAL square = v[0] * v[0];
    for (int k = 1; k < lanes; k++) square += v[k] * v[k];
    return SQRT(square);
}

INLINE REAL NAME(magnitude)(const int d, const int parts, ptrdiff_t j, const REAL *restrict q0,
                            const REAL *restrict q1, const REAL *restrict q2)
{
    REAL v[6];
    NAME(load)(d, parts, j, q0, q1, q2, v);
    return NAME(norm)(d * parts, v);
}

INLINE REAL NAME(slope)(const int d, const int parts, ptrdiff_t j, const REAL *restrict x, const REAL *restrict x0,
                        const REAL *restrict x1, const REAL *restrict x2)
{
    REAL g[6];
    NAME(differences)(d, parts, j, x, x0, x1, x2, g);
    return NAME(norm)(d * parts, g);
}

/* --- magnitudes: sum and count above a threshold, and the l21 clip ------------------------- */

INLINE void NAME(above_body)(const int d, const int parts, ptrdiff_t n, const REAL *restrict q0,
                             const REAL *restrict q1, const REAL *restrict q2, REAL t, double *restrict acc)
{
    FOR_CHUNKS(a, b, n) {
        REAL s = 0, k = 0;
        SIMD(reduction(+ : s, k)) for (ptrdiff_t j = a; j < b; j++) {
            REAL m = NAME(magnitude)(d, parts, j, q0, q1, q2);
            s += m > t ? m : 0;
            k += m > t ? (REAL)1 : (REAL)0;
        }
        acc[0] += s;
        acc[1] += k;
    }
}

ROWS(above, NAME(above_body),
     (int d, ptrdiff_t n, const REAL *restrict q0, const REAL *restrict q1, const REAL *restrict q2, REAL t,
      double *restrict acc),
     n, q0, q1, q2, t, acc)

/* p = field_weight q + clip_weight clip(q, t), by pixel norm over d components. */
INLINE void NAME(split_body)(const int d, const int parts, ptrdiff_t n, const REAL *restrict q0,
                             const REAL *restrict q1, const REAL *restrict q2, REAL t, REAL field_weight,
                             REAL clip_weight, REAL *restrict p0, REAL *restrict p1, REAL *restrict p2)
{
    const int lanes = d * parts;
    for (ptrdiff_t j = 0; j < n; j++) {
        REAL v[6];
        NAME(load)(d, parts, j, q0, q1, q2, v);
        if (lanes == 1) {
            v[0] = field_weight * v[0] + clip_weight * NAME(clip)(v[0], t);
        } else {
            REAL w = field_weight + clip_weight * NAME(ball_scale)(NAME(norm)(lanes, v), t);
            for (int k = 0; k < lanes; k++) v[k] *= w;
        }
        NAME(store)(d, parts, j, v, p0, p1, p2);
    }
}

ROWS(split, NAME(split_body),
     (int d, ptrdiff_t n, const REAL *restrict q0, const REAL *restrict q1, const REAL *restrict q2, REAL t,
      REAL field_weight, REAL clip_weight, REAL *restrict p0, REAL *restrict p1, REAL *restrict p2),
     n, q0, q1, q2, t, field_weight, clip_weight, p0, p1, p2)

/* --- one-field update (mathematics.md 4c); x is the row, x0..x2 its forward neighbours --------------- */

/* q <- relaxation (x_next - x) + kept q + carried c, c = clip(q, t); returns the magnitude of the new q */
INLINE REAL NAME(update_pixel)(const int d, const int parts, ptrdiff_t j, const REAL *restrict x,
                               const REAL *restrict x0, const REAL *restrict x1, const REAL *restrict x2,
                               REAL *restrict q0, REAL *restrict q1, REAL *restrict q2, REAL relaxation, REAL t,
                               REAL kept, REAL carried)
{
    const int lanes = d * parts;
    REAL v[6], g[6];
    NAME(load)(d, parts, j, q0, q1, q2, v);
    NAME(differences)(d, parts, j, x, x0, x1, x2, g);
    if (lanes == 1) {
        v[0] = relaxation * g[0] + (kept * v[0] + carried * NAME(clip)(v[0], t));
    } else {
        REAL w = kept + carried * NAME(ball_scale)(NAME(norm)(lanes, v), t);
        for (int k = 0; k < lanes; k++) v[k] = relaxation * g[k] + w * v[k];
    }
    NAME(store)(d, parts, j, v, q0, q1, q2);
    return NAME(norm)(lanes, v);
}

INLINE void NAME(update_body)(const int d, const int parts, const int sums, ptrdiff_t n, const REAL *restrict x,
                              const REAL *restrict x0, const REAL *restrict x1, const REAL *restrict x2,
                              REAL *restrict q0, REAL *restrict q1, REAL *restrict q2, REAL relaxation, REAL t,
                              REAL dual_scale, REAL trial, double *restrict acc)
{
    const REAL kept = 1 - relaxation, carried = dual_scale - kept;
    FOR_CHUNKS(start, stop, n) {
        REAL s = 0, above = 0, count = 0;
        SIMD(reduction(+ : s, above, count)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL m = NAME(update_pixel)(d, parts, j, x, x0, x1, x2, q0, q1, q2, relaxation, t, kept, carried);
            if (sums) {
                s += m;
                above += m > trial ? m : 0;
                count += m > trial ? (REAL)1 : (REAL)0;
            }
        }
        if (sums) {
            acc[0] += s;
            acc[1] += above;
            acc[2] += count;
        }
    }
}

ROWS(update, NAME(update_body),
     (int d, ptrdiff_t n, const REAL *restrict x, const REAL *restrict x0, const REAL *restrict x1,
      const REAL *restrict x2, REAL *restrict q0, REAL *restrict q1, REAL *restrict q2, REAL relaxation, REAL t,
      REAL dual_scale),
     0, n, x, x0, x1, x2, q0, q1, q2, relaxation, t, dual_scale, 0, 0)

ROWS(update_sums, NAME(update_body),
     (int d, ptrdiff_t n, const REAL *restrict x, const REAL *restrict x0, const REAL *restrict x1,
      const REAL *restrict x2, REAL *restrict q0, REAL *restrict q1, REAL *restrict q2, REAL relaxation, REAL t,
      REAL dual_scale, REAL trial, double *restrict acc),
     1, n, x, x0, x1, x2, q0, q1, q2, relaxation, t, dual_scale, trial, acc)

/* The update, and the magnitudes of the new field. */
INLINE void NAME(update_measured_body)(const int d, const int parts, ptrdiff_t n, const REAL *restrict x,
                                       const REAL *restrict x0, const REAL *restrict x1, const REAL *restrict x2,
                                       REAL *restrict q0, REAL *restrict q1, REAL *restrict q2, REAL relaxation,
                                       REAL t, REAL dual_scale, REAL *restrict magnitudes)
{
    const REAL kept = 1 - relaxation, carried = dual_scale - kept;
    SIMD() for (ptrdiff_t j = 0; j < n; j++)
        magnitudes[j] = NAME(update_pixel)(d, parts, j, x, x0, x1, x2, q0, q1, q2, relaxation, t, kept, carried);
}

ROWS(update_measured, NAME(update_measured_body),
     (int d, ptrdiff_t n, const REAL *restrict x, const REAL *restrict x0, const REAL *restrict x1,
      const REAL *restrict x2, REAL *restrict q0, REAL *restrict q1, REAL *restrict q2, REAL relaxation, REAL t,
      REAL dual_scale, REAL *restrict magnitudes),
     n, x, x0, x1, x2, q0, q1, q2, relaxation, t, dual_scale, magnitudes)

/* acc[0..4] += TV, <c, g>, |g - v|^2, |v|^2, |g|^2, acc[5] = max(acc[5], |g - v + c|) with g the gradient,
 * c = clip(q, t), v = q - c */
INLINE void NAME(status_body)(const int d, const int parts, ptrdiff_t n, const REAL *restrict x,
                              const REAL *restrict x0, const REAL *restrict x1, const REAL *restrict x2,
                              const REAL *restrict q0, const REAL *restrict q1, const REAL *restrict q2, REAL t,
                              double *restrict acc)
{
    const int lanes = d * parts;
    FOR_CHUNKS(start, stop, n) {
        REAL tv = 0, cg = 0, gv = 0, vv = 0, gg = 0, largest = 0;
        SIMD(reduction(+ : tv, cg, gv, vv, gg) reduction(max : largest)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL scale = lanes == 1 ? 0 : NAME(ball_scale)(NAME(magnitude)(d, parts, j, q0, q1, q2), t), square = 0;
            tv += NAME(slope)(d, parts, j, x, x0, x1, x2);
            for (int k = 0; k < lanes; k++) {
                const ptrdiff_t at = parts * j + k % parts;
                REAL q = (k < parts ? q0 : k < 2 * parts ? q1 : q2)[at];
                REAL g = (k < parts ? x0 : k < 2 * parts ? x1 : x2)[at] - x[at];
                REAL c = lanes == 1 ? NAME(clip)(q, t) : scale * q, v = q - c, e = g - v, m = e + c;
                cg += c * g;
                gv += e * e;
                vv += v * v;
                gg += g * g;
                square = lanes == 1 ? NAME(absolute)(m) : square + m * m;
            }
            REAL size = lanes == 1 ? square : SQRT(square);
            largest = size > largest ? size : largest;
        }
        acc[0] += tv;
        acc[1] += cg;
        acc[2] += gv;
        acc[3] += vv;
        acc[4] += gg;
        acc[5] = largest > acc[5] ? largest : acc[5];
    }
}

ROWS(status, NAME(status_body),
     (int d, ptrdiff_t n, const REAL *restrict x, const REAL *restrict x0, const REAL *restrict x1,
      const REAL *restrict x2, const REAL *restrict q0, const REAL *restrict q1, const REAL *restrict q2, REAL t,
      double *restrict acc),
     n, x, x0, x1, x2, q0, q1, q2, t, acc)

/* --- linear-programming form (mathematics.md 4a), one component; p receives the field for grad^T ------ */

ROW NAME(slack)(ptrdiff_t n, const REAL *restrict x, const REAL *restrict x_next, REAL *restrict s1, REAL *restrict s2,
                REAL *restrict c, REAL *restrict l1, REAL *restrict l2, REAL shift, REAL penalty, REAL proximal,
                REAL *restrict p, double *restrict acc)
{
    const REAL w_scale = 1 / (2 * penalty + proximal), s_scale = 1 / (penalty + proximal);
    FOR_CHUNKS(start, stop, n) {
        REAL total = 0, tv = 0;
        SIMD(reduction(+ : total, tv)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL g = x_next[j] - x[j], w = (c[j] - shift) * w_scale;
            REAL m1 = l1[j] + penalty * (g + s1[j] - w), m2 = l2[j] + penalty * (g - s2[j] + w);
            REAL a1 = (penalty * (w - g) - m1 + proximal * s1[j]) * s_scale;
            REAL a2 = (penalty * (w + g) + m2 + proximal * s2[j]) * s_scale;
            a1 = a1 > 0 ? a1 : 0;
            a2 = a2 > 0 ? a2 : 0;
            REAL e = penalty * (a1 + a2) + m1 - m2 + proximal * w;
            s1[j] = a1;
            s2[j] = a2;
            l1[j] = m1;
            l2[j] = m2;
            c[j] = e;
            p[j] = penalty * (a2 - a1) - m2 - m1;
            total += e;
            tv += NAME(absolute)(g);
        }
        acc[0] += total;
        acc[1] += tv;
    }
}

/* --- half spectra: interleaved complex rows of n coefficients; lap[j] + lap_outer is L ------ *
 * Sums weigh each coefficient by copies[j], its number of copies in the full spectrum.          */


/* 1 / d, and 0 for a frequency that nothing determines (d = 0). */
INLINE REAL NAME(pseudo_inverse)(REAL d) { return d == 0 ? 0 : 1 / d; }

/* r <- X = (conj(A) Y + penalty r) / (|A|^2 + penalty L + shift); acc += |A X - Y|^2 */
ROW NAME(lower_spectrum)(ptrdiff_t n, REAL *restrict r, const REAL *restrict A, const REAL *restrict Y,
                         const REAL *restrict lap, REAL lap_outer, REAL penalty, REAL shift,
                         const REAL *restrict copies, double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL s = 0;
        SIMD(reduction(+ : s)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL ar = A[2 * j], ai = A[2 * j + 1], yr = Y[2 * j], yi = Y[2 * j + 1];
            REAL inverse = NAME(pseudo_inverse)(ar * ar + ai * ai + penalty * (lap_outer + lap[j]) + shift);
            REAL xr = (ar * yr + ai * yi + penalty * r[2 * j]) * inverse;
            REAL xi = (ar * yi - ai * yr + penalty * r[2 * j + 1]) * inverse;
            REAL er = ar * xr - ai * xi - yr, ei = ar * xi + ai * xr - yi;
            r[2 * j] = xr;
            r[2 * j + 1] = xi;
            s += copies[j] * (er * er + ei * ei);
        }
        acc[0] += s;
    }
}

/* acc += |conj(A)(A X - Y) + penalty M|^2 */
ROW NAME(lower_kkt)(ptrdiff_t n, const REAL *restrict X, const REAL *restrict M, const REAL *restrict A,
                    const REAL *restrict Y, REAL penalty, const REAL *restrict copies, double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL s = 0;
        SIMD(reduction(+ : s)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL ar = A[2 * j], ai = A[2 * j + 1], xr = X[2 * j], xi = X[2 * j + 1];
            REAL er = ar * xr - ai * xi - Y[2 * j], ei = ar * xi + ai * xr - Y[2 * j + 1];
            REAL kr = ar * er + ai * ei + penalty * M[2 * j], ki = ar * ei - ai * er + penalty * M[2 * j + 1];
            s += copies[j] * (kr * kr + ki * ki);
        }
        acc[0] += s;
    }
}

/* acc += |scale z|^2 */
ROW NAME(scaled_squares)(ptrdiff_t n, const REAL *restrict z, REAL scale, const REAL *restrict copies,
                         double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL s = 0;
        SIMD(reduction(+ : s)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL zr = scale * z[2 * j], zi = scale * z[2 * j + 1];
            s += copies[j] * (zr * zr + zi * zi);
        }
        acc[0] += s;
    }
}

/* The x-update and the data-ball update of mathematics.md 4c; acc += |r_p|^2, |A X - Y|^2, |X - D|^2 */
INLINE void NAME(upper_body)(const int proximal_term, ptrdiff_t n, REAL *restrict r, const REAL *restrict previous,
                             const REAL *restrict D, const REAL *restrict A, const REAL *restrict Y,
                             REAL *restrict residual, const REAL *restrict lap, REAL lap_outer, REAL eta, REAL shift,
                             REAL field_penalty, REAL data_penalty, REAL proximal, REAL relaxation, REAL shrink,
                             const REAL *restrict copies, double *restrict acc)
{
    const REAL pull = 2 * shrink - 1, carry = 1 - relaxation * shrink;
    FOR_CHUNKS(start, stop, n) {
        REAL sr = 0, se = 0, sd = 0;
        SIMD(reduction(+ : sr, se, sd)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL ar = A[2 * j], ai = A[2 * j + 1], yr = Y[2 * j], yi = Y[2 * j + 1];
            REAL pr = residual[2 * j], pi = residual[2 * j + 1], dr = D[2 * j], di = D[2 * j + 1];
            REAL zr = yr + pull * pr, zi = yi + pull * pi;
            REAL nr = eta * dr + field_penalty * r[2 * j] + data_penalty * (ar * zr + ai * zi);
            REAL ni = eta * di + field_penalty * r[2 * j + 1] + data_penalty * (ar * zi - ai * zr);
            if (proximal_term) {
                nr += proximal * previous[2 * j];
                ni += proximal * previous[2 * j + 1];
            }
            REAL seen = data_penalty * (ar * ar + ai * ai) + field_penalty * (lap_outer + lap[j]);
            REAL inverse = NAME(pseudo_inverse)(shift + seen);
            REAL xr = nr * inverse, xi = ni * inverse;
            REAL er = ar * xr - ai * xi - yr, ei = ar * xi + ai * xr - yi;
            pr = relaxation * er + carry * pr;
            pi = relaxation * ei + carry * pi;
            dr = xr - dr;
            di = xi - di;
            r[2 * j] = xr;
            r[2 * j + 1] = xi;
            residual[2 * j] = pr;
            residual[2 * j + 1] = pi;
            sr += copies[j] * (pr * pr + pi * pi);
            se += copies[j] * (er * er + ei * ei);
            sd += copies[j] * (dr * dr + di * di);
        }
        acc[0] += sr;
        acc[1] += se;
        acc[2] += sd;
    }
}

ROW NAME(upper_spectrum)(ptrdiff_t n, REAL *restrict r, const REAL *restrict previous, const REAL *restrict D,
                         const REAL *restrict A, const REAL *restrict Y, REAL *restrict residual,
                         const REAL *restrict lap, REAL lap_outer, REAL eta, REAL shift, REAL field_penalty,
                         REAL data_penalty, REAL proximal, REAL relaxation, REAL shrink, const REAL *restrict copies,
                         double *restrict acc)
{
    if (previous)
        NAME(upper_body)(1, n, r, previous, D, A, Y, residual, lap, lap_outer, eta, shift, field_penalty,
                         data_penalty, proximal, relaxation, shrink, copies, acc);
    else
        NAME(upper_body)(0, n, r, previous, D, A, Y, residual, lap, lap_outer, eta, shift, field_penalty,
                         data_penalty, proximal, relaxation, shrink, copies, acc);
}

/* acc += <Q, D>, |Q|^2, <N, Y>, |N|^2 with N = data_weight r_p, Q = field_penalty M + conj(A) N */
ROW NAME(upper_dual)(ptrdiff_t n, const REAL *restrict M, const REAL *restrict residual, const REAL *restrict D,
                     const REAL *restrict A, const REAL *restrict Y, REAL field_penalty, REAL data_weight, const REAL *restrict copies,
                     double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL qd = 0, qq = 0, ny = 0, nn = 0;
        SIMD(reduction(+ : qd, qq, ny, nn)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL ar = A[2 * j], ai = A[2 * j + 1];
            REAL nr = data_weight * residual[2 * j], ni = data_weight * residual[2 * j + 1];
            REAL qr = field_penalty * M[2 * j] + ar * nr + ai * ni;
            REAL qi = field_penalty * M[2 * j + 1] + ar * ni - ai * nr;
            qd += copies[j] * (qr * D[2 * j] + qi * D[2 * j + 1]);
            qq += copies[j] * (qr * qr + qi * qi);
            ny += copies[j] * (nr * Y[2 * j] + ni * Y[2 * j + 1]);
            nn += copies[j] * (nr * nr + ni * ni);
        }
        acc[0] += qd;
        acc[1] += qq;
        acc[2] += ny;
        acc[3] += nn;
    }
}

/* acc += |eta (X - D) + field_penalty M + data_weight conj(A) r_p|^2 */
ROW NAME(upper_kkt)(ptrdiff_t n, const REAL *restrict M, const REAL *restrict X, const REAL *restrict residual,
                    const REAL *restrict D, const REAL *restrict A, REAL eta, REAL field_penalty, REAL data_weight,
                    const REAL *restrict copies, double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL s = 0;
        SIMD(reduction(+ : s)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL ar = A[2 * j], ai = A[2 * j + 1];
            REAL nr = data_weight * residual[2 * j], ni = data_weight * residual[2 * j + 1];
            REAL er = eta * (X[2 * j] - D[2 * j]) + (field_penalty * M[2 * j] + ar * nr + ai * ni);
            REAL ei = eta * (X[2 * j + 1] - D[2 * j + 1]) + (field_penalty * M[2 * j + 1] + ar * ni - ai * nr);
            s += copies[j] * (er * er + ei * ei);
        }
        acc[0] += s;
    }
}

/* --- multi-coil images: interleaved complex rows of n pixels; masks are 0 or 1 ----------------------- */

/* out = m x */
ROW NAME(coil_image)(ptrdiff_t n, const REAL *restrict x, const REAL *restrict m, REAL *restrict out)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL xr = x[2 * j], xi = x[2 * j + 1], mr = m[2 * j], mi = m[2 * j + 1];
        out[2 * j] = mr * xr - mi * xi;
        out[2 * j + 1] = mr * xi + mi * xr;
    }
}

/* out += conj(m) image */
ROW NAME(coil_add)(ptrdiff_t n, const REAL *restrict image, const REAL *restrict m, REAL *restrict out)
{
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL zr = image[2 * j], zi = image[2 * j + 1], mr = m[2 * j], mi = m[2 * j + 1];
        out[2 * j] += mr * zr + mi * zi;
        out[2 * j + 1] += mr * zi - mi * zr;
    }
}

/* field <- relaxation e + (1 - relaxation sigma) field with e = scale spectra - data, sigma = shrink where sampled
 * and 1 elsewhere; acc += |field|^2, |e|^2 over the sampled pixels */
ROW NAME(coil_update)(ptrdiff_t n, const REAL *restrict spectra, REAL *restrict field, const REAL *restrict mask,
                      const REAL *restrict data, REAL scale, REAL relaxation, REAL shrink, double *restrict acc)
{
    const REAL sampled = 1 - relaxation * shrink, unsampled = 1 - relaxation;
    FOR_CHUNKS(start, stop, n) {
        REAL sf = 0, se = 0;
        SIMD(reduction(+ : sf, se)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL carry = mask[j] != 0 ? sampled : unsampled;
            REAL er = scale * spectra[2 * j] - data[2 * j], ei = scale * spectra[2 * j + 1] - data[2 * j + 1];
            REAL fr = relaxation * er + carry * field[2 * j], fi = relaxation * ei + carry * field[2 * j + 1];
            REAL f = fr * fr + fi * fi, e = er * er + ei * ei;
            field[2 * j] = fr;
            field[2 * j + 1] = fi;
            sf += mask[j] != 0 ? f : 0;
            se += mask[j] != 0 ? e : 0;
        }
        acc[0] += sf;
        acc[1] += se;
    }
}

/* out = data + (2 sigma - 1) field */
ROW NAME(coil_pull)(ptrdiff_t n, const REAL *field, const REAL *mask, const REAL *data, REAL shrink, REAL *out)
{
    const REAL sampled = 2 * shrink - 1;
    SIMD() for (ptrdiff_t j = 0; j < n; j++) {
        REAL pull = mask[j] != 0 ? sampled : 1;
        out[2 * j] = data[2 * j] + pull * field[2 * j];
        out[2 * j + 1] = data[2 * j + 1] + pull * field[2 * j + 1];
    }
}
