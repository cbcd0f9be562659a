/* Loops of the batched splits: ADMM iterates of several problems side by side, compiled for several CPUs as in rows.h. */
#ifndef BIOPERF_BALLS_H
#define BIOPERF_BALLS_H

#include "rows.h"

#define REAL float
#define NAME(f) f##_f
#define SQRT sqrtf
#define TINY 1e-37f
#include "balls_template.h"
#undef REAL
#undef NAME
#undef SQRT
#undef TINY

#define REAL double
#define NAME(f) f##_d
#define SQRT sqrt
#define TINY 1e-300
#include "balls_template.h"
#undef REAL
#undef NAME
#undef SQRT
#undef TINY

#endif
