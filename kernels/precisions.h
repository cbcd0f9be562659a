/* Includes TEMPLATE, a file's name in quotes, once for float (suffix _f) and once for double (suffix _d). */
#define REAL float
#define NAME(f) f##_f
#define SQRT sqrtf
#define TINY 1e-37f
#include TEMPLATE
#undef REAL
#undef NAME
#undef SQRT
#undef TINY

#define REAL double
#define NAME(f) f##_d
#define SQRT sqrt
#define TINY 1e-300
#include TEMPLATE
#undef REAL
#undef NAME
#undef SQRT
#undef TINY
#undef TEMPLATE
