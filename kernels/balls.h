/* Loops of the batched splits: ADMM iterates of several problems side by side, compiled for several CPUs as in rows.h. */
#ifndef BIOPERF_BALLS_H
#define BIOPERF_BALLS_H

#include "rows.h"

#define TEMPLATE "balls_template.h"
#include "precisions.h"

#endif
