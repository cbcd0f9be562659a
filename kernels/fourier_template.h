/* Included by fourier_target.h once for float and once for double: LANES lines at a time, one in each lane of a vector,
 * as vectors of real and of imaginary parts in turn. */

#define V LOCAL(Vector)
#define UNALIGNED LOCAL(Unaligned)
#define C LOCAL(Complex)
#define LANES ((ptrdiff_t)(VECTOR_BYTES / sizeof(REAL)))
#define HALF (LANES / 2)

typedef REAL V __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL UNALIGNED __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef struct {
    V re, im;
} C;

INLINE V LOCAL(read)(const REAL *x) { return *(const UNALIGNED *)x; }
INLINE void LOCAL(write)(REAL *x, V v) { *(UNALIGNED *)x = v; }

/* Real and imaginary parts of LANES complex numbers, in an order that `store` undoes. */
INLINE C LOCAL(load)(const REAL *x)
{
    V a = LOCAL(read)(x), b = LOCAL(read)(x + LANES);
    C z;
    if (sizeof(REAL) == 4) {
        z.re = (V)FOR_TARGET(even)((WORDS)a, (WORDS)b);
        z.im = (V)FOR_TARGET(odd)((WORDS)a, (WORDS)b);
    } else {
        z.re = (V)FOR_TARGET(zip_low_pairs)((PAIRS)a, (PAIRS)b);
        z.im = (V)FOR_TARGET(zip_high_pairs)((PAIRS)a, (PAIRS)b);
    }
    return z;
}

INLINE void LOCAL(store)(REAL *x, C z)
{
    if (sizeof(REAL) == 4) {
        LOCAL(write)(x, (V)FOR_TARGET(zip_low)((WORDS)z.re, (WORDS)z.im));
        LOCAL(write)(x + LANES, (V)FOR_TARGET(zip_high)((WORDS)z.re, (WORDS)z.im));
    } else {
        LOCAL(write)(x, (V)FOR_TARGET(zip_low_pairs)((PAIRS)z.re, (PAIRS)z.im));
        LOCAL(write)(x + LANES, (V)FOR_TARGET(zip_high_pairs)((PAIRS)z.re, (PAIRS)z.im));
    }
}

/* x[i] lane l <-> x[l] lane i */
INLINE void LOCAL(transpose)(V *x)
{
    enum { PER_LANE = 16 / sizeof(REAL) };
    if (sizeof(REAL) == 4) {
        UNROLL for (int i = 0; i < LANES; i += 4) {
            WORDS a = (WORDS)x[i], b = (WORDS)x[i + 1];
            WORDS c = (WORDS)x[i + 2], d = (WORDS)x[i + 3];
            PAIRS p = (PAIRS)FOR_TARGET(zip_low)(a, b), q = (PAIRS)FOR_TARGET(zip_high)(a, b);
            PAIRS r = (PAIRS)FOR_TARGET(zip_low)(c, d), s = (PAIRS)FOR_TARGET(zip_high)(c, d);
            x[i] = (V)FOR_TARGET(zip_low_pairs)(p, r);
            x[i + 1] = (V)FOR_TARGET(zip_high_pairs)(p, r);
            x[i + 2] = (V)FOR_TARGET(zip_low_pairs)(q, s);
            x[i + 3] = (V)FOR_TARGET(zip_high_pairs)(q, s);
        }
    } else {
        UNROLL for (int i = 0; i < LANES; i += 2) {
            PAIRS a = (PAIRS)x[i], b = (PAIRS)x[i + 1];
            x[i] = (V)FOR_TARGET(zip_low_pairs)(a, b);
            x[i + 1] = (V)FOR_TARGET(zip_high_pairs)(a, b);
        }
    }
#if VECTOR_BYTES == 64
    UNROLL for (int i = 0; i < PER_LANE; i++) {
        PAIRS a = (PAIRS)x[i], b = (PAIRS)x[i + PER_LANE];
        PAIRS c = (PAIRS)x[i + 2 * PER_LANE], d = (PAIRS)x[i + 3 * PER_LANE];
        PAIRS p = FOR_TARGET(low_lanes)(a, b), q = FOR_TARGET(high_lanes)(a, b);
        PAIRS r = FOR_TARGET(low_lanes)(c, d), s = FOR_TARGET(high_lanes)(c, d);
        x[i] = (V)FOR_TARGET(even_lanes)(p, r);
        x[i + PER_LANE] = (V)FOR_TARGET(odd_lanes)(p, r);
        x[i + 2 * PER_LANE] = (V)FOR_TARGET(even_lanes)(q, s);
        x[i + 3 * PER_LANE] = (V)FOR_TARGET(odd_lanes)(q, s);
    }
#elif VECTOR_BYTES == 32
    UNROLL for (int i = 0; i < PER_LANE; i++) {
        PAIRS a = (PAIRS)x[i], b = (PAIRS)x[i + PER_LANE];
        x[i] = (V)FOR_TARGET(low_lanes)(a, b);
        x[i + PER_LANE] = (V)FOR_TARGET(high_lanes)(a, b);
    }
#endif
}

/* --- transforms of r numbers a lane, sum_k x[k] exp(-2 pi i k q / r) ------------------------ */

INLINE C LOCAL(add)(C a, C b) { return (C){a.re + b.re, a.im + b.im}; }
INLINE C LOCAL(sub)(C a, C b) { return (C){a.re - b.re, a.im - b.im}; }
INLINE C LOCAL(sub_i)(C a, C b) { return (C){a.re + b.im, a.im - b.re}; }  /* a - i b */
INLINE C LOCAL(add_i)(C a, C b) { return (C){a.re - b.im, a.im + b.re}; }  /* a + i b */
INLINE C LOCAL(scale)(C a, REAL s) { return (C){a.re * s, a.im * s}; }
INLINE C LOCAL(times)(C a, REAL re, REAL im) { return (C){a.re * re - a.im * im, a.re * im + a.im * re}; }

INLINE void LOCAL(dft4)(C a, C b, C c, C d, C *x)
{
    C s = LOCAL(add)(a, c), t = LOCAL(sub)(a, c), u = LOCAL(add)(b, d), v = LOCAL(sub)(b, d);
    x[0] = LOCAL(add)(s, u);
    x[1] = LOCAL(sub_i)(t, v);
    x[2] = LOCAL(sub)(s, u);
    x[3] = LOCAL(add_i)(t, v);
}

INLINE void LOCAL(dft)(const int r, C *x)
{
    if (r == 2) {
        C a = x[0], b = x[1];
        x[0] = LOCAL(add)(a, b);
        x[1] = LOCAL(sub)(a, b);
    }
    if (r == 3) {
        C s = LOCAL(add)(x[1], x[2]), d = LOCAL(scale)(LOCAL(sub)(x[1], x[2]), SIN_3);
        C m = (C){x[0].re - s.re * (REAL)0.5, x[0].im - s.im * (REAL)0.5};
        x[0] = LOCAL(add)(x[0], s);
        x[1] = LOCAL(sub_i)(m, d);
        x[2] = LOCAL(add_i)(m, d);
    }
    if (r == 4) LOCAL(dft4)(x[0], x[1], x[2], x[3], x);
    if (r == 5) {
        C a = x[0], s = LOCAL(add)(x[1], x[4]), t = LOCAL(add)(x[2], x[3]);
        C u = LOCAL(sub)(x[1], x[4]), v = LOCAL(sub)(x[2], x[3]);
        C m = (C){a.re + s.re * (REAL)COS_5 + t.re * (REAL)COS_25, a.im + s.im * (REAL)COS_5 + t.im * (REAL)COS_25};
        C n = (C){a.re + s.re * (REAL)COS_25 + t.re * (REAL)COS_5, a.im + s.im * (REAL)COS_25 + t.im * (REAL)COS_5};
        C p = (C){u.re * (REAL)SIN_5 + v.re * (REAL)SIN_25, u.im * (REAL)SIN_5 + v.im * (REAL)SIN_25};
        C q = (C){u.re * (REAL)SIN_25 - v.re * (REAL)SIN_5, u.im * (REAL)SIN_25 - v.im * (REAL)SIN_5};
        x[0] = (C){a.re + s.re + t.re, a.im + s.im + t.im};
        x[1] = LOCAL(sub_i)(m, p);
        x[2] = LOCAL(sub_i)(n, q);
        x[3] = LOCAL(add_i)(n, q);
        x[4] = LOCAL(add_i)(m, p);
    }
    if (r == 7) {
        C a = x[0], s = LOCAL(add)(x[1], x[6]), t = LOCAL(add)(x[2], x[5]), u = LOCAL(add)(x[3], x[4]);
        C p = LOCAL(sub)(x[1], x[6]), q = LOCAL(sub)(x[2], x[5]), w = LOCAL(sub)(x[3], x[4]);
#define SUM_7(p, q, w, part, i, j, k) (p.part * (REAL)(i) + q.part * (REAL)(j) + w.part * (REAL)(k))
#define EVEN_7(i, j, k) {a.re + SUM_7(s, t, u, re, i, j, k), a.im + SUM_7(s, t, u, im, i, j, k)}
#define ODD_7(i, j, k) {SUM_7(p, q, w, re, i, j, k), SUM_7(p, q, w, im, i, j, k)}
        C e1 = EVEN_7(COS_7, COS_27, COS_37), o1 = ODD_7(SIN_7, SIN_27, SIN_37);
        C e2 = EVEN_7(COS_27, COS_37, COS_7), o2 = ODD_7(SIN_27, -SIN_37, -SIN_7);
        C e3 = EVEN_7(COS_37, COS_7, COS_27), o3 = ODD_7(SIN_37, -SIN_7, SIN_27);
#undef SUM_7
#undef EVEN_7
#undef ODD_7
        x[0] = LOCAL(add)(LOCAL(add)(a, s), LOCAL(add)(t, u));
        x[1] = LOCAL(sub_i)(e1, o1);
        x[2] = LOCAL(sub_i)(e2, o2);
        x[3] = LOCAL(sub_i)(e3, o3);
        x[4] = LOCAL(add_i)(e3, o3);
        x[5] = LOCAL(add_i)(e2, o2);
        x[6] = LOCAL(add_i)(e1, o1);
    }
    if (r == 8) {
        C e[4], o[4];
        LOCAL(dft4)(x[0], x[2], x[4], x[6], e);
        LOCAL(dft4)(x[1], x[3], x[5], x[7], o);
        C p = (C){o[1].re + o[1].im, o[1].im - o[1].re};  /* sqrt 2 exp(-i pi / 4) o[1] */
        C q = (C){o[3].im - o[3].re, -o[3].re - o[3].im};  /* sqrt 2 exp(-3 i pi / 4) o[3] */
        x[0] = LOCAL(add)(e[0], o[0]);
        x[4] = LOCAL(sub)(e[0], o[0]);
        x[1] = (C){e[1].re + p.re * (REAL)SIN_8, e[1].im + p.im * (REAL)SIN_8};
        x[5] = (C){e[1].re - p.re * (REAL)SIN_8, e[1].im - p.im * (REAL)SIN_8};
        x[2] = LOCAL(sub_i)(e[2], o[2]);
        x[6] = LOCAL(add_i)(e[2], o[2]);
        x[3] = (C){e[3].re + q.re * (REAL)SIN_8, e[3].im + q.im * (REAL)SIN_8};
        x[7] = (C){e[3].re - q.re * (REAL)SIN_8, e[3].im - q.im * (REAL)SIN_8};
    }
}

INLINE void LOCAL(twist)(const int r, C *x, const REAL *w)
{
    UNROLL for (int q = 1; q < r; q++) x[q] = LOCAL(times)(x[q], w[2 * q - 2], w[2 * q - 1]);
}

/* --- passes: one level of a line's transform -------------------------------------------------- */

#define BY_RADIX(r, body, ...) \
    switch (r) { \
    case 2: body(2, __VA_ARGS__); break; \
    case 3: body(3, __VA_ARGS__); break; \
    case 4: body(4, __VA_ARGS__); break; \
    case 5: body(5, __VA_ARGS__); break; \
    case 7: body(7, __VA_ARGS__); break; \
    case 8: body(8, __VA_ARGS__); break; \
    default: body(1, __VA_ARGS__); \
    }

/* The first level, from memory into the buffers: LANES neighbouring columns into each of `panels` buffers, which are
 * `apart`; z[j + k m] goes to j + k spacing. Rows are far apart, and no hardware sees the next ones coming. */
INLINE void LOCAL(load_pass_body)(const int r, ptrdiff_t m, const REAL *w, const REAL *x, ptrdiff_t stride, C *z,
                                  ptrdiff_t spacing, const ptrdiff_t panels, ptrdiff_t apart)
{
    const ptrdiff_t ahead = panels == 1 ? 1 : 2;
    for (ptrdiff_t j = 0; j < m; j++, w += 2 * (r - 1)) {
        for (ptrdiff_t k = 0; k < r && j + ahead < m; k++) {
            const REAL *next = x + (j + ahead + k * m) * stride;
            for (ptrdiff_t i = 0; i <= 2 * LANES * panels; i += 64 / sizeof(REAL)) __builtin_prefetch(next + i);
        }
        for (ptrdiff_t i = 0; i < panels; i++) {
            C a[8];
            UNROLL for (int k = 0; k < r; k++) a[k] = LOCAL(load)(x + (j + k * m) * stride + 2 * LANES * i);
            LOCAL(dft)(r, a);
            LOCAL(twist)(r, a, w);
            UNROLL for (int k = 0; k < r; k++) z[j + k * spacing + i * apart] = a[k];
        }
    }
}

/* A level that is neither first nor last: `count` transforms of r m numbers each. */
INLINE void LOCAL(pass_body)(const int r, ptrdiff_t count, ptrdiff_t m, const REAL *twiddles, C *z)
{
    for (ptrdiff_t i = 0; i < count; i++, z += r * m) {
        const REAL *w = twiddles;
        for (ptrdiff_t j = 0; j < m; j++, w += 2 * (r - 1)) {
            C a[8];
            UNROLL for (int k = 0; k < r; k++) a[k] = z[j + k * m];
            LOCAL(dft)(r, a);
            LOCAL(twist)(r, a, w);
            UNROLL for (int k = 0; k < r; k++) z[j + k * m] = a[k];
        }
    }
}

/* The last level, in the buffer. */
INLINE void LOCAL(last_pass_body)(const int r, ptrdiff_t count, C *z)
{
    if (r == 1) return;
    for (ptrdiff_t i = 0; i < count; i++, z += r) {
        C a[8];
        UNROLL for (int k = 0; k < r; k++) a[k] = z[k];
        LOCAL(dft)(r, a);
        UNROLL for (int k = 0; k < r; k++) z[k] = a[k];
    }
}

/* The last level, from the buffers into memory: the result that stands at i goes to row frequency[i]. */
INLINE void LOCAL(store_pass_body)(const int r, ptrdiff_t count, const ptrdiff_t *frequency, const C *z, REAL *x,
                                   ptrdiff_t stride, ptrdiff_t panels, ptrdiff_t apart)
{
    for (ptrdiff_t i = 0; i < count; i++, z += r, frequency += r)
        for (ptrdiff_t j = 0; j < panels; j++) {
            C a[8];
            UNROLL for (int k = 0; k < r; k++) a[k] = z[k + j * apart];
            LOCAL(dft)(r, a);
            UNROLL for (int k = 0; k < r; k++) LOCAL(store)(x + frequency[k] * stride + 2 * LANES * j, a[k]);
        }
}

static void LOCAL(load_pass)(int r, ptrdiff_t m, const REAL *w, const REAL *x, ptrdiff_t stride, C *z,
                             ptrdiff_t spacing, ptrdiff_t panels, ptrdiff_t apart)
{
    if (panels == 1) BY_RADIX(r, LOCAL(load_pass_body), m, w, x, stride, z, spacing, 1, apart)
    else BY_RADIX(r, LOCAL(load_pass_body), m, w, x, stride, z, spacing, panels, apart)
}

static void LOCAL(pass)(int r, ptrdiff_t count, ptrdiff_t m, const REAL *w, C *z)
{
    BY_RADIX(r, LOCAL(pass_body), count, m, w, z)
}

static void LOCAL(last_pass)(int r, ptrdiff_t count, C *z) { BY_RADIX(r, LOCAL(last_pass_body), count, z) }

static void LOCAL(store_pass)(int r, ptrdiff_t count, const ptrdiff_t *frequency, const C *z, REAL *x, ptrdiff_t stride,
                              ptrdiff_t panels, ptrdiff_t apart)
{
    if (panels == 1) BY_RADIX(r, LOCAL(store_pass_body), count, frequency, z, x, stride, 1, apart)
    else BY_RADIX(r, LOCAL(store_pass_body), count, frequency, z, x, stride, panels, apart)
}

/* The levels from `level` to the last but one of `count` transforms of `length` numbers. */
static void LOCAL(middle)(const FourierLine *line, int level, ptrdiff_t count, ptrdiff_t length, C *z)
{
    for (; level < line->levels - 1; level++) {
        int r = line->radix[level];
        LOCAL(pass)(r, count, length / r, line->twiddles[level], z);
        count *= r;
        length /= r;
    }
}

/* --- one block of columns --------------------------------------------------------------------- */

/* Scratch memory: lines, a second set of them, and two rows of the spectrum. */
INLINE C *LOCAL(lines)(void *work) { return (C *)work; }
INLINE C *LOCAL(second)(const FourierPlan *p, void *work) { return (C *)work + p->room; }
INLINE REAL *LOCAL(spare)(const FourierPlan *p, void *work) { return (REAL *)((C *)work + 2 * p->room); }
INLINE REAL *LOCAL(zeros)(const FourierPlan *p, void *work) { return LOCAL(spare)(p, work) + 2 * p->columns; }

/* Unit of work `unit` of the transforms along axis 0 or 1 of a spectrum, in place: some neighbouring columns. The last
 * ones of a row are filled up with zeros. */
static void LOCAL(along)(const FourierPlan *p, int axis, int inverse, void *spectrum, ptrdiff_t unit, void *work)
{
    const FourierLine *line = &p->line[axis];
    const ptrdiff_t n = line->n, m = n / line->radix[0], last = line->radix[line->levels - 1];
    const ptrdiff_t *frequency = inverse ? line->frequency + n : line->frequency;

    const ptrdiff_t row = 2 * p->columns, plane = p->n1 * row;
    const ptrdiff_t stride = axis == 0 ? plane : row, step = axis == 0 ? row : plane;
    const ptrdiff_t wide = p->panels[axis] * LANES, blocks = (p->columns_used + wide - 1) / wide;
    const ptrdiff_t group = unit / blocks, first = (unit - group * blocks) * wide, left = p->columns_used - first;
    const ptrdiff_t count = left < wide ? left : wide, panels = (count + LANES - 1) / LANES;
    const ptrdiff_t spacing = m + 1, apart = n + line->radix[0];
    REAL *x = (REAL *)spectrum + group * step + 2 * first, *copy = (REAL *)LOCAL(second)(p, work);
    C *z = LOCAL(lines)(work);

    const int whole = count == panels * LANES;
    const ptrdiff_t width = 2 * LANES * panels;
    const size_t bytes = 2 * count * sizeof(REAL);
    for (ptrdiff_t i = 0; i < n && !whole; i++) {
        memcpy(copy + i * width, x + i * stride, bytes);
        memset(copy + i * width + 2 * count, 0, width * sizeof(REAL) - bytes);
    }
    REAL *rows = whole ? x : copy;
    const ptrdiff_t rows_apart = whole ? stride : width;
    LOCAL(load_pass)(line->radix[0], m, line->twiddles[0], rows, rows_apart, z, spacing, panels, apart);
    for (ptrdiff_t q = 0; q < line->radix[0]; q++) {
        for (ptrdiff_t i = 0; i < panels; i++) LOCAL(middle)(line, 1, 1, m, z + q * spacing + i * apart);
        LOCAL(store_pass)(last, m / last, frequency + q * m, z + q * spacing, rows, rows_apart, panels, apart);
    }
    for (ptrdiff_t i = 0; i < n && !whole; i++) memcpy(x + i * stride, copy + i * width, bytes);
}

/* --- one block of rows ------------------------------------------------------------------------ */

/* LANES rows of `width` numbers, `stride` apart, into vectors z[column]; rows from `count` on read as `zeros`. */
static void LOCAL(gather)(const REAL *x, ptrdiff_t stride, ptrdiff_t count, ptrdiff_t width, const REAL *zeros, V *z,
                          ptrdiff_t spread)
{
    const REAL *rows[LANES];
    for (ptrdiff_t l = 0; l < LANES; l++) rows[l] = l < count ? x + l * stride : zeros;
    if (width < LANES) {
        for (ptrdiff_t c = 0; c < width; c++)
            for (ptrdiff_t l = 0; l < LANES; l++) ((REAL *)(z + spread * c))[l] = rows[l][c];
        return;
    }
    for (ptrdiff_t start = 0; start < width; start += LANES) {
        const ptrdiff_t c = start + LANES <= width ? start : width - LANES;
        V t[LANES];
        UNROLL for (int l = 0; l < LANES; l++) t[l] = LOCAL(read)(rows[l] + c);
        LOCAL(transpose)(t);
        UNROLL for (int l = 0; l < LANES; l++) z[spread * (c + l)] = t[l];
    }
}

/* Vectors t[0 ... LANES - 1] to the columns from c on of LANES rows. */
INLINE void LOCAL(scatter)(V *t, REAL *const *rows, ptrdiff_t c)
{
    LOCAL(transpose)(t);
    UNROLL for (int l = 0; l < LANES; l++) LOCAL(write)(rows[l] + c, t[l]);
}

INLINE void LOCAL(scatter_one)(V v, REAL *const *rows, ptrdiff_t c)
{
    for (ptrdiff_t l = 0; l < LANES; l++) rows[l][c] = v[l];
}

INLINE void LOCAL(row_pointers)(REAL *x, ptrdiff_t stride, ptrdiff_t count, REAL *spare, REAL **rows)
{
    for (ptrdiff_t l = 0; l < LANES; l++) rows[l] = l < count ? x + l * stride : spare;
}

/* All levels of LANES lines that stand in the buffer; the results stand in line->order. */
static void LOCAL(transform)(const FourierLine *line, C *z)
{
    const ptrdiff_t last = line->radix[line->levels - 1];
    const ptrdiff_t m = line->n / line->radix[0];
    LOCAL(pass)(line->radix[0], 1, m, line->twiddles[0], z);
    for (int q = 0; q < line->radix[0]; q++) {
        LOCAL(middle)(line, 1, 1, m, z + q * m);
        LOCAL(last_pass)(last, m / last, z + q * m);
    }
}

/* Results to rows of complex numbers, or of pairs of real ones. */
static void LOCAL(put_complex)(const FourierLine *line, const C *z, int inverse, REAL *const *rows)
{
    const ptrdiff_t n = line->n;
    if (n < HALF) {
        for (ptrdiff_t k = 0; k < n; k++) {
            C a = z[line->order[inverse ? n - k : k]];
            LOCAL(scatter_one)(a.re, rows, 2 * k);
            LOCAL(scatter_one)(a.im, rows, 2 * k + 1);
        }
        return;
    }
    for (ptrdiff_t start = 0; start < n; start += HALF) {
        const ptrdiff_t k = start + HALF <= n ? start : n - HALF;
        V t[LANES];
        UNROLL for (int i = 0; i < HALF; i++) {
            C a = z[line->order[inverse ? n - k - i : k + i]];
            t[2 * i] = a.re;
            t[2 * i + 1] = a.im;
        }
        LOCAL(scatter)(t, rows, 2 * k);
    }
}

/* The spectrum of 2n real numbers from that of the n complex numbers they were read as, Z: X[k] = E + T and
 * X[n - k] = conj(E - T), E = (Z[k] + conj Z[n - k]) / 2, T = (Z[k] - conj Z[n - k]) exp(-i pi k / n) / 2i. */
INLINE void LOCAL(part)(const FourierLine *line, const C *z, ptrdiff_t k, C *low, C *high)
{
    const REAL *w = (const REAL *)line->halves + 2 * k;
    const ptrdiff_t n = line->n;
    C a = z[line->order[k]], b = z[line->order[n - k]];
    C e = (C){(a.re + b.re) * (REAL)0.5, (a.im - b.im) * (REAL)0.5};
    C d = (C){a.im + b.im, b.re - a.re};  /* (a - conj b) / i */
    C t = LOCAL(times)(d, w[0], w[1]);
    *low = LOCAL(add)(e, t);
    *high = (C){e.re - t.re, t.im - e.im};
}

static void LOCAL(put_parted)(const FourierLine *line, const C *z, int packed, REAL *const *rows)
{
    const ptrdiff_t n = line->n, pairs = n / 2 + 1;
    ptrdiff_t k = 0;
    if (n + 1 >= HALF)
        for (; k < pairs && (k + HALF <= pairs || pairs - k > 1); k += HALF) {
            const ptrdiff_t low = k + HALF <= n + 1 ? k : n + 1 - HALF;
            V t[LANES], u[LANES];
            UNROLL for (int i = 0; i < HALF; i++) {
                C a, b;
                LOCAL(part)(line, z, low + i, &a, &b);
                t[2 * i] = a.re;
                t[2 * i + 1] = a.im;
                u[2 * (HALF - 1 - i)] = b.re;
                u[2 * (HALF - 1 - i) + 1] = b.im;
            }
            if (packed && low == 0) t[1] = u[LANES - 2];
            LOCAL(scatter)(u, rows, 2 * (n + 1 - HALF - low));
            LOCAL(scatter)(t, rows, 2 * low);
        }
    for (; k < pairs; k++) {
        C a, b;
        LOCAL(part)(line, z, k, &a, &b);
        if (packed && k == 0) a.im = b.re;
        LOCAL(scatter_one)(a.re, rows, 2 * k);
        LOCAL(scatter_one)(a.im, rows, 2 * k + 1);
        LOCAL(scatter_one)(b.re, rows, 2 * (n - k));
        LOCAL(scatter_one)(b.im, rows, 2 * (n - k) + 1);
    }
}

/* The way back, in the buffer that holds X[0 ... n]; packed: the imaginary part of X[0] is X[n].
 * Z[k] = E + i T and Z[n - k] = conj(E - i T), E = X[k] + conj X[n - k], T = (X[k] - conj X[n - k]) exp(i pi k / n). */
static void LOCAL(join)(const FourierLine *line, C *z, int packed)
{
    const REAL *w = line->halves;
    const ptrdiff_t n = line->n;
    const V top = packed ? z[0].im : z[n].re;
    z[0] = (C){z[0].re + top, z[0].re - top};
    for (ptrdiff_t k = 1; k <= n - k; k++) {
        C a = z[k], b = z[n - k];
        C e = (C){a.re + b.re, a.im - b.im};
        C d = (C){a.re - b.re, a.im + b.im};
        C t = LOCAL(times)(d, 2 * w[2 * k], -2 * w[2 * k + 1]);
        z[k] = LOCAL(add_i)(e, t);
        z[n - k] = (C){e.re + t.im, t.re - e.im};
    }
}

/* The spectra X and Y of odd numbers n of real numbers x and y from that of x + i y. */
static void LOCAL(put_separated)(const FourierLine *line, const C *z, REAL *const *rows, REAL *const *more_rows)
{
    const ptrdiff_t n = line->n, columns = n / 2 + 1;
    ptrdiff_t k = 0;
    for (; columns >= HALF && k < columns; k += HALF) {
        const ptrdiff_t low = k + HALF <= columns ? k : columns - HALF;
        V t[LANES], u[LANES];
        UNROLL for (int i = 0; i < HALF; i++) {
            C a = z[line->order[low + i]], b = z[line->order[n - low - i]];
            t[2 * i] = (a.re + b.re) * (REAL)0.5;
            t[2 * i + 1] = (a.im - b.im) * (REAL)0.5;
            u[2 * i] = (a.im + b.im) * (REAL)0.5;
            u[2 * i + 1] = (b.re - a.re) * (REAL)0.5;
        }
        LOCAL(scatter)(t, rows, 2 * low);
        LOCAL(scatter)(u, more_rows, 2 * low);
    }
    for (; k < columns; k++) {
        C a = z[line->order[k]], b = z[line->order[n - k]];
        LOCAL(scatter_one)((a.re + b.re) * (REAL)0.5, rows, 2 * k);
        LOCAL(scatter_one)((a.im - b.im) * (REAL)0.5, rows, 2 * k + 1);
        LOCAL(scatter_one)((a.im + b.im) * (REAL)0.5, more_rows, 2 * k);
        LOCAL(scatter_one)((b.re - a.re) * (REAL)0.5, more_rows, 2 * k + 1);
    }
}

/* Z = X + i Y from the half spectra x and y, one vector a number. */
static void LOCAL(combine)(ptrdiff_t n, const C *x, const C *y, C *z)
{
    z[0] = (C){x[0].re, y[0].re};
    for (ptrdiff_t k = 1; k <= n / 2; k++) {
        z[k] = LOCAL(add_i)(x[k], y[k]);
        z[n - k] = (C){x[k].re + y[k].im, y[k].re - x[k].im};
    }
}

static void LOCAL(put_parts)(const FourierLine *line, const C *z, REAL *const *rows, REAL *const *more_rows)
{
    const ptrdiff_t n = line->n;
    ptrdiff_t k = 0;
    for (; n >= LANES && k < n; k += LANES) {
        const ptrdiff_t low = k + LANES <= n ? k : n - LANES;
        V t[LANES];
        UNROLL for (int i = 0; i < LANES; i++) t[i] = z[line->order[n - low - i]].re;
        LOCAL(scatter)(t, rows, low);
        UNROLL for (int i = 0; i < LANES; i++) t[i] = z[line->order[n - low - i]].im;
        LOCAL(scatter)(t, more_rows, low);
    }
    for (; k < n; k++) {
        LOCAL(scatter_one)(z[line->order[n - k]].re, rows, k);
        LOCAL(scatter_one)(z[line->order[n - k]].im, more_rows, k);
    }
}

/* Unit of work `unit` of the transforms along the last axis, from an image to its spectrum. */
static void LOCAL(rows_forward)(const FourierPlan *p, const void *image, void *spectrum, ptrdiff_t unit, void *work)
{
    const FourierLine *line = &p->line[2];
    const ptrdiff_t total = p->axes == 3 ? p->n1 : p->n0, odd = p->parity, wide = (odd ? 2 : 1) * LANES;
    const ptrdiff_t blocks = (total + wide - 1) / wide, plane = unit / blocks, block = unit - plane * blocks;
    const ptrdiff_t first = plane * total + block * wide, count = total - block * wide;
    const ptrdiff_t width = p->complex_image ? 2 * p->n2 : p->n2, row = 2 * p->columns;
    const REAL *x = (const REAL *)image + first * width;
    REAL *out = (REAL *)spectrum + first * row, *zeros = LOCAL(zeros)(p, work), *spare = LOCAL(spare)(p, work);
    REAL *rows[LANES], *more_rows[LANES];
    C *z = LOCAL(lines)(work);
    if (count < wide) memset(zeros, 0, width * sizeof(REAL));
    LOCAL(row_pointers)(out, row, count, spare, rows);
    LOCAL(gather)(x, width, count, width, zeros, (V *)z, odd ? 2 : 1);
    if (odd) {
        LOCAL(gather)(x + LANES * width, width, count - LANES, width, zeros, (V *)z + 1, 2);
        LOCAL(row_pointers)(out + LANES * row, row, count - LANES, spare, more_rows);
    }
    LOCAL(transform)(line, z);
    if (odd) LOCAL(put_separated)(line, z, rows, more_rows);
    else if (p->complex_image) LOCAL(put_complex)(line, z, 0, rows);
    else LOCAL(put_parted)(line, z, p->packed, rows);
}

static void LOCAL(rows_inverse)(const FourierPlan *p, const void *spectrum, void *image, ptrdiff_t unit, void *work)
{
    const FourierLine *line = &p->line[2];
    const ptrdiff_t total = p->axes == 3 ? p->n1 : p->n0, odd = p->parity, wide = (odd ? 2 : 1) * LANES;
    const ptrdiff_t blocks = (total + wide - 1) / wide, plane = unit / blocks, block = unit - plane * blocks;
    const ptrdiff_t first = plane * total + block * wide, count = total - block * wide;
    const ptrdiff_t width = p->complex_image ? 2 * p->n2 : p->n2, row = 2 * p->columns;
    const ptrdiff_t used = p->packed ? row - 2 : row;
    const REAL *x = (const REAL *)spectrum + first * row;
    REAL *out = (REAL *)image + first * width, *zeros = LOCAL(zeros)(p, work), *spare = LOCAL(spare)(p, work);
    REAL *rows[LANES], *more_rows[LANES];
    C *z = LOCAL(lines)(work), *second = LOCAL(second)(p, work);
    if (count < wide) memset(zeros, 0, row * sizeof(REAL));
    LOCAL(row_pointers)(out, width, count, spare, rows);
    if (odd) {
        C *third = second + line->n / 2 + 1;
        LOCAL(gather)(x, row, count, row, zeros, (V *)second, 1);
        LOCAL(gather)(x + LANES * row, row, count - LANES, row, zeros, (V *)third, 1);
        LOCAL(row_pointers)(out + LANES * width, width, count - LANES, spare, more_rows);
        LOCAL(combine)(line->n, second, third, z);
    } else {
        LOCAL(gather)(x, row, count, used, zeros, (V *)z, 1);
        if (!p->complex_image) LOCAL(join)(line, z, p->packed);
    }
    LOCAL(transform)(line, z);
    if (odd) LOCAL(put_parts)(line, z, rows, more_rows);
    else LOCAL(put_complex)(line, z, 1, rows);
}

/* --- the columns 0 and n / 2 of the spectrum of rows of n real numbers, n even ------------------
 *
 * Their rows' transforms A and B are real, so the columns are transformed as one, A + i B.                    */

/* The columns apart from Z = FFT(A + i B): (Z[k] + conj Z[-k]) / 2 and (Z[k] - conj Z[-k]) / 2i. */
static void LOCAL(unpack)(const FourierPlan *p, void *spectrum)
{
    const ptrdiff_t row = 2 * p->columns, nyquist = row - 2;
    for (ptrdiff_t i = 0; i <= p->n0 / 2; i++)
        for (ptrdiff_t j = 0; j < p->n1; j++) {
            const ptrdiff_t i2 = i ? p->n0 - i : 0, j2 = j ? p->n1 - j : 0;
            REAL *a = (REAL *)spectrum + (i * p->n1 + j) * row, *b = (REAL *)spectrum + (i2 * p->n1 + j2) * row;
            if (i == i2 && j > j2) continue;
            REAL re = (REAL)0.5 * (a[0] + b[0]), im = (REAL)0.5 * (a[1] - b[1]);
            REAL other_re = (REAL)0.5 * (a[1] + b[1]), other_im = (REAL)0.5 * (b[0] - a[0]);
            a[0] = b[0] = re;
            a[1] = im;
            b[1] = -im;
            a[nyquist] = b[nyquist] = other_re;
            a[nyquist + 1] = other_im;
            b[nyquist + 1] = -other_im;
        }
}

/* The way back: A + i B of the parts of both columns that belong to real rows, (A[k] + conj A[-k]) / 2. */
static void LOCAL(pack)(const FourierPlan *p, void *spectrum)
{
    const ptrdiff_t row = 2 * p->columns, nyquist = row - 2;
    for (ptrdiff_t i = 0; i <= p->n0 / 2; i++)
        for (ptrdiff_t j = 0; j < p->n1; j++) {
            const ptrdiff_t i2 = i ? p->n0 - i : 0, j2 = j ? p->n1 - j : 0;
            REAL *a = (REAL *)spectrum + (i * p->n1 + j) * row, *b = (REAL *)spectrum + (i2 * p->n1 + j2) * row;
            if (i == i2 && j > j2) continue;
            REAL re = (REAL)0.5 * (a[0] + b[0]), im = (REAL)0.5 * (a[1] - b[1]);
            REAL other_re = (REAL)0.5 * (a[nyquist] + b[nyquist]);
            REAL other_im = (REAL)0.5 * (a[nyquist + 1] - b[nyquist + 1]);
            a[0] = re - other_im;
            a[1] = im + other_re;
            b[0] = re + other_im;
            b[1] = other_re - im;
        }
}

#undef V
#undef UNALIGNED
#undef C
#undef LANES
#undef HALF
