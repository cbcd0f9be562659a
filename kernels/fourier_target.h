/* Included by fourier.h once per target: vectors of VECTOR_BYTES and their shuffles, then the transforms on them. */

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
#define FOR_TARGET(name) JOIN(name, TARGET)
#define LOCAL(name) FOR_TARGET(NAME(name))
#define WORDS FOR_TARGET(Words)
#define PAIRS FOR_TARGET(Pairs)

typedef float WORDS __attribute__((vector_size(VECTOR_BYTES)));
typedef double PAIRS __attribute__((vector_size(VECTOR_BYTES)));

#ifdef __clang__
#define SHUFFLE(name, type, index, ...) \
    INLINE type FOR_TARGET(name)(type a, type b) { return __builtin_shufflevector(a, b, __VA_ARGS__); }
#else
#define SHUFFLE(name, type, index, ...) \
    INLINE type FOR_TARGET(name)(type a, type b) \
    { \
        typedef index Mask __attribute__((vector_size(VECTOR_BYTES))); \
        return __builtin_shuffle(a, b, (Mask){__VA_ARGS__}); \
    }
#endif
#define SHUFFLE_WORDS(name, ...) SHUFFLE(name, WORDS, int, __VA_ARGS__)
#define SHUFFLE_PAIRS(name, ...) SHUFFLE(name, PAIRS, long long, __VA_ARGS__)

/* One instruction each. Within every 128 bits: the first or second halves of a and b, their elements in turn; the even
 * or odd elements of a, then those of b. And with 128 bits as an element: the halves, or the even or odd ones. */
#if VECTOR_BYTES == 64
SHUFFLE_WORDS(zip_low, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
SHUFFLE_WORDS(zip_high, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
SHUFFLE_WORDS(even, 0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30)
SHUFFLE_WORDS(odd, 1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31)
SHUFFLE_PAIRS(zip_low_pairs, 0, 8, 2, 10, 4, 12, 6, 14)
SHUFFLE_PAIRS(zip_high_pairs, 1, 9, 3, 11, 5, 13, 7, 15)
SHUFFLE_PAIRS(low_lanes, 0, 1, 2, 3, 8, 9, 10, 11)
SHUFFLE_PAIRS(high_lanes, 4, 5, 6, 7, 12, 13, 14, 15)
SHUFFLE_PAIRS(even_lanes, 0, 1, 4, 5, 8, 9, 12, 13)
SHUFFLE_PAIRS(odd_lanes, 2, 3, 6, 7, 10, 11, 14, 15)
#elif VECTOR_BYTES == 32
SHUFFLE_WORDS(zip_low, 0, 8, 1, 9, 4, 12, 5, 13)
SHUFFLE_WORDS(zip_high, 2, 10, 3, 11, 6, 14, 7, 15)
SHUFFLE_WORDS(even, 0, 2, 8, 10, 4, 6, 12, 14)
SHUFFLE_WORDS(odd, 1, 3, 9, 11, 5, 7, 13, 15)
SHUFFLE_PAIRS(zip_low_pairs, 0, 4, 2, 6)
SHUFFLE_PAIRS(zip_high_pairs, 1, 5, 3, 7)
SHUFFLE_PAIRS(low_lanes, 0, 1, 4, 5)
SHUFFLE_PAIRS(high_lanes, 2, 3, 6, 7)
#else
SHUFFLE_WORDS(zip_low, 0, 4, 1, 5)
SHUFFLE_WORDS(zip_high, 2, 6, 3, 7)
SHUFFLE_WORDS(even, 0, 2, 4, 6)
SHUFFLE_WORDS(odd, 1, 3, 5, 7)
SHUFFLE_PAIRS(zip_low_pairs, 0, 2)
SHUFFLE_PAIRS(zip_high_pairs, 1, 3)
#endif

enum { FOR_TARGET(vector_bytes) = VECTOR_BYTES };

#define TEMPLATE "fourier_template.h"
#include "precisions.h"

#undef JOIN_
#undef JOIN
#undef FOR_TARGET
#undef LOCAL
#undef WORDS
#undef PAIRS
#undef SHUFFLE
#undef SHUFFLE_WORDS
#undef SHUFFLE_PAIRS
#undef TARGET
#undef VECTOR_BYTES
