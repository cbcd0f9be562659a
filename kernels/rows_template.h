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
ROW NAME(adjoint)(int d, ptrdiff_t n, const REAL *restrict a_before, const REAL *restrict a,
                  const REAL *restrict b_before, const REAL *restrict b, const REAL *restrict c, REAL *restrict out)
{
    out[0] = c[n - 1] - c[0];
    if (d == 1) {
        for (ptrdiff_t j = 1; j < n; j++) out[j] = c[j - 1] - c[j];
    } else if (d == 2) {
        out[0] += a_before[0] - a[0];
        for (ptrdiff_t j = 1; j < n; j++) out[j] = (c[j - 1] - c[j]) + (a_before[j] - a[j]);
    } else {
        out[0] += (a_before[0] - a[0]) + (b_before[0] - b[0]);
        for (ptrdiff_t j = 1; j < n; j++) out[j] = (c[j - 1] - c[j]) + ((a_before[j] - a[j]) + (b_before[j] - b[j]));
    }
}

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

/* --- magnitudes: sum and count above a threshold, and the l21 clip ------------------------- */

INLINE REAL NAME(norm)(const int d, REAL g0, REAL g1, REAL g2)
{
    if (d == 1) return NAME(absolute)(g0);
    return SQRT(d == 2 ? g0 * g0 + g1 * g1 : g0 * g0 + g1 * g1 + g2 * g2);
}

INLINE void NAME(above_body)(const int d, ptrdiff_t n, const REAL *restrict q0, const REAL *restrict q1,
                             const REAL *restrict q2, REAL t, double *restrict acc)
{
    FOR_CHUNKS(a, b, n) {
        REAL s = 0, k = 0;
        SIMD(reduction(+ : s, k)) for (ptrdiff_t j = a; j < b; j++) {
            REAL m = NAME(norm)(d, q0[j], d > 1 ? q1[j] : 0, d > 2 ? q2[j] : 0);
            s += m > t ? m : 0;
            k += m > t ? (REAL)1 : (REAL)0;
        }
        acc[0] += s;
        acc[1] += k;
    }
}

ROW NAME(above)(int d, ptrdiff_t n, const REAL *restrict q0, const REAL *restrict q1, const REAL *restrict q2, REAL t,
                double *restrict acc)
{
    if (d == 1) NAME(above_body)(1, n, q0, q1, q2, t, acc);
    else if (d == 2) NAME(above_body)(2, n, q0, q1, q2, t, acc);
    else NAME(above_body)(3, n, q0, q1, q2, t, acc);
}

/* p = field_weight q + clip_weight clip(q, t), by pixel norm over d components. */
INLINE void NAME(split_body)(const int d, ptrdiff_t n, const REAL *restrict q0, const REAL *restrict q1,
                             const REAL *restrict q2, REAL t, REAL field_weight, REAL clip_weight, REAL *restrict p0,
                             REAL *restrict p1, REAL *restrict p2)
{
    for (ptrdiff_t j = 0; j < n; j++) {
        REAL a = q0[j], b = d > 1 ? q1[j] : 0, c = d > 2 ? q2[j] : 0;
        if (d == 1) {
            p0[j] = field_weight * a + clip_weight * NAME(clip)(a, t);
        } else {
            REAL w = field_weight + clip_weight * NAME(ball_scale)(NAME(norm)(d, a, b, c), t);
            p0[j] = w * a;
            p1[j] = w * b;
            if (d > 2) p2[j] = w * c;
        }
    }
}

ROW NAME(split)(int d, ptrdiff_t n, const REAL *restrict q0, const REAL *restrict q1, const REAL *restrict q2, REAL t,
                REAL field_weight, REAL clip_weight, REAL *restrict p0, REAL *restrict p1, REAL *restrict p2)
{
    if (d == 1) NAME(split_body)(1, n, q0, q1, q2, t, field_weight, clip_weight, p0, p1, p2);
    else if (d == 2) NAME(split_body)(2, n, q0, q1, q2, t, field_weight, clip_weight, p0, p1, p2);
    else NAME(split_body)(3, n, q0, q1, q2, t, field_weight, clip_weight, p0, p1, p2);
}

/* --- one-field update (mathematics.md 4c); x is the row, x0..x2 its forward neighbours --------------- */

/* q <- relaxation (x_next - x) + kept q + carried c, c = clip(q, t) */
INLINE void NAME(update_body)(const int d, const int sums, ptrdiff_t n, const REAL *restrict x,
                              const REAL *restrict x0, const REAL *restrict x1, const REAL *restrict x2,
                              REAL *restrict q0, REAL *restrict q1, REAL *restrict q2, REAL relaxation, REAL t,
                              REAL dual_scale, REAL trial, double *restrict acc)
{
    const REAL kept = 1 - relaxation, carried = dual_scale - kept;
    FOR_CHUNKS(start, stop, n) {
        REAL s = 0, above = 0, count = 0;
        SIMD(reduction(+ : s, above, count)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL a = q0[j], b = d > 1 ? q1[j] : 0, c = d > 2 ? q2[j] : 0;
            if (d == 1) {
                a = relaxation * (x0[j] - x[j]) + (kept * a + carried * NAME(clip)(a, t));
            } else {
                REAL w = kept + carried * NAME(ball_scale)(NAME(norm)(d, a, b, c), t);
                a = relaxation * (x0[j] - x[j]) + w * a;
                b = relaxation * (x1[j] - x[j]) + w * b;
                if (d > 2) c = relaxation * (x2[j] - x[j]) + w * c;
            }
            q0[j] = a;
            if (d > 1) q1[j] = b;
            if (d > 2) q2[j] = c;
            if (sums) {
                REAL m = NAME(norm)(d, a, b, c);
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

ROW NAME(update)(int d, ptrdiff_t n, const REAL *restrict x, const REAL *restrict x0, const REAL *restrict x1,
                 const REAL *restrict x2, REAL *restrict q0, REAL *restrict q1, REAL *restrict q2, REAL relaxation,
                 REAL t, REAL dual_scale)
{
    if (d == 1) NAME(update_body)(1, 0, n, x, x0, x1, x2, q0, q1, q2, relaxation, t, dual_scale, 0, 0);
    else if (d == 2) NAME(update_body)(2, 0, n, x, x0, x1, x2, q0, q1, q2, relaxation, t, dual_scale, 0, 0);
    else NAME(update_body)(3, 0, n, x, x0, x1, x2, q0, q1, q2, relaxation, t, dual_scale, 0, 0);
}

ROW NAME(update_sums)(int d, ptrdiff_t n, const REAL *restrict x, const REAL *restrict x0, const REAL *restrict x1,
                      const REAL *restrict x2, REAL *restrict q0, REAL *restrict q1, REAL *restrict q2,
                      REAL relaxation, REAL t, REAL dual_scale, REAL trial, double *restrict acc)
{
    if (d == 1) NAME(update_body)(1, 1, n, x, x0, x1, x2, q0, q1, q2, relaxation, t, dual_scale, trial, acc);
    else if (d == 2) NAME(update_body)(2, 1, n, x, x0, x1, x2, q0, q1, q2, relaxation, t, dual_scale, trial, acc);
    else NAME(update_body)(3, 1, n, x, x0, x1, x2, q0, q1, q2, relaxation, t, dual_scale, trial, acc);
}

/* acc[0..4] += TV, <c, g>, |g - v|^2, |v|^2, |g|^2, acc[5] = max(acc[5], |g - v + c|) with g the gradient,
 * c = clip(q, t), v = q - c */
INLINE void NAME(status_body)(const int d, ptrdiff_t n, const REAL *restrict x, const REAL *restrict x0,
                              const REAL *restrict x1, const REAL *restrict x2, const REAL *restrict q0,
                              const REAL *restrict q1, const REAL *restrict q2, REAL t, double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL tv = 0, cg = 0, gv = 0, vv = 0, gg = 0, largest = 0;
        SIMD(reduction(+ : tv, cg, gv, vv, gg) reduction(max : largest)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL g[3] = {x0[j] - x[j], d > 1 ? x1[j] - x[j] : 0, d > 2 ? x2[j] - x[j] : 0};
            REAL q[3] = {q0[j], d > 1 ? q1[j] : 0, d > 2 ? q2[j] : 0};
            REAL scale = d == 1 ? 0 : NAME(ball_scale)(NAME(norm)(d, q[0], q[1], q[2]), t), m[3] = {0, 0, 0};
            tv += NAME(norm)(d, g[0], g[1], g[2]);
            for (int k = 0; k < d; k++) {
                REAL c = d == 1 ? NAME(clip)(q[k], t) : scale * q[k], v = q[k] - c, e = g[k] - v;
                cg += c * g[k];
                gv += e * e;
                vv += v * v;
                gg += g[k] * g[k];
                m[k] = e + c;
            }
            REAL size = NAME(norm)(d, m[0], m[1], m[2]);
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

ROW NAME(status)(int d, ptrdiff_t n, const REAL *restrict x, const REAL *restrict x0, const REAL *restrict x1,
                 const REAL *restrict x2, const REAL *restrict q0, const REAL *restrict q1, const REAL *restrict q2,
                 REAL t, double *restrict acc)
{
    if (d == 1) NAME(status_body)(1, n, x, x0, x1, x2, q0, q1, q2, t, acc);
    else if (d == 2) NAME(status_body)(2, n, x, x0, x1, x2, q0, q1, q2, t, acc);
    else NAME(status_body)(3, n, x, x0, x1, x2, q0, q1, q2, t, acc);
}

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


/* r <- X = (conj(A) Y + penalty r) / (|A|^2 + penalty L); acc += |A X - Y|^2 */
ROW NAME(lower_spectrum)(ptrdiff_t n, REAL *restrict r, const REAL *restrict A, const REAL *restrict Y,
                         const REAL *restrict lap, REAL lap_outer, REAL penalty, const REAL *restrict copies, double *restrict acc)
{
    FOR_CHUNKS(start, stop, n) {
        REAL s = 0;
        SIMD(reduction(+ : s)) for (ptrdiff_t j = start; j < stop; j++) {
            REAL ar = A[2 * j], ai = A[2 * j + 1], yr = Y[2 * j], yi = Y[2 * j + 1];
            REAL inverse = 1 / (ar * ar + ai * ai + penalty * (lap_outer + lap[j]));
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

/* The x-update and the data-ball update of mathematics.md 4c; acc += |r_p|^2, |A X - Y|^2, |X - D|^2 */
INLINE void NAME(upper_body)(const int proximal_term, ptrdiff_t n, REAL *restrict r, const REAL *restrict previous,
                             const REAL *restrict D, const REAL *restrict A, const REAL *restrict Y,
                             REAL *restrict residual, const REAL *restrict lap, REAL lap_outer, REAL eta,
                             REAL field_penalty, REAL data_penalty, REAL proximal, REAL relaxation, REAL shrink,
                             const REAL *restrict copies, double *restrict acc)
{
    const REAL pull = 2 * shrink - 1, carry = 1 - relaxation * shrink;
    const REAL shift = eta + (proximal_term ? proximal : 0);
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
            REAL inverse = 1 / (shift + data_penalty * (ar * ar + ai * ai) + field_penalty * (lap_outer + lap[j]));
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
                         const REAL *restrict lap, REAL lap_outer, REAL eta, REAL field_penalty, REAL data_penalty,
                         REAL proximal, REAL relaxation, REAL shrink, const REAL *restrict copies, double *restrict acc)
{
    if (previous)
        NAME(upper_body)(1, n, r, previous, D, A, Y, residual, lap, lap_outer, eta, field_penalty, data_penalty,
                         proximal, relaxation, shrink, copies, acc);
    else
        NAME(upper_body)(0, n, r, previous, D, A, Y, residual, lap, lap_outer, eta, field_penalty, data_penalty,
                         proximal, relaxation, shrink, copies, acc);
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
