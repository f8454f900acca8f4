/* Body of messages.c, once for each floating-point type: see there.

   REAL: the type. NAME(x): x with its suffix. LOW_n(a, b), HIGH_n(a, b): the first and
   the second half of every part, where a and b consist of 2^n parts in all; STEPS: the
   highest n. */

/* For products of single numbers and vectors; where the processor has no vectors as
   long, the compiler takes several, and each number need be read only once for them. */
typedef REAL NAME(vec) __attribute__((vector_size(64)));
enum { NAME(WIDTH) = 64 / sizeof(REAL) };

/* For sums over the elements of vectors. */
typedef REAL NAME(part) __attribute__((vector_size(32)));
enum { NAME(PART) = 32 / sizeof(REAL) };

/* The first r numbers; r is a constant but for the last channels of a path. */
static inline NAME(vec) NAME(load)(const REAL *p, const int r) {
    NAME(vec) v = {0};
    memcpy(&v, p, r * sizeof(REAL));
    return v;
}

static inline void NAME(store)(REAL *p, NAME(vec) v, const int r) {
    memcpy(p, &v, r * sizeof(REAL));
}

static inline NAME(part) NAME(load_part)(const REAL *p, const int r) {
    NAME(part) v = {0};
    memcpy(&v, p, r * sizeof(REAL));
    return v;
}

/* Add the sums of the elements of up to eight vectors to as many numbers. */
static inline __attribute__((always_inline)) void NAME(add_totals)(
    REAL *p, const NAME(part) * v, const int n) {
    const NAME(part) zero = {0};
    NAME(part) pair[4], four[2];
    UNROLL for (int i = 0; i < 4; i++) {
        const NAME(part) a = 2 * i < n ? v[2 * i] : zero;
        const NAME(part) b = 2 * i + 1 < n ? v[2 * i + 1] : zero;
        pair[i] = LOW_1(a, b) + HIGH_1(a, b);
    }
    UNROLL for (int i = 0; i < 2; i++) four[i] =
        LOW_2(pair[2 * i], pair[2 * i + 1]) + HIGH_2(pair[2 * i], pair[2 * i + 1]);
    REAL totals[8];
#if STEPS == 3
    const NAME(part) eight = LOW_3(four[0], four[1]) + HIGH_3(four[0], four[1]);
    memcpy(totals, &eight, sizeof totals);
#else
    memcpy(totals, four, sizeof totals);
#endif
    UNROLL for (int i = 0; i < n; i++) p[i] += totals[i];
}

/* The rows of the arguments of one form, for one edge; that of the slot is added to. */
struct NAME(rows) {
    REAL *of[4];
};

/* One edge, r channels of one path from channel c on. */
static inline __attribute__((always_inline)) void NAME(block)(
    const int slot, const int M1, const int M3, const int r, const struct path *p,
    const int c, const struct NAME(rows) * row) {
    const int C = p->channels, stride = p->stride;
    const REAL *k = row->of[COUPLING] + p->coupling;
    REAL *s = row->of[FEATURE] + p->feature + c, *w = row->of[WEIGHT] + p->weight + c;
    REAL *g = row->of[MESSAGE] + p->message + c;
    NAME(vec) message[MAX_M];
    UNROLL for (int b = 0; b < M3; b++) message[b] = NAME(load)(g + b * stride, r);
    if (slot == MESSAGE) {
        const NAME(vec) weight = NAME(load)(w, r);
        UNROLL for (int a = 0; a < M1; a++) {
            const NAME(vec) sw = NAME(load)(s + a * C, r) * weight;
            UNROLL for (int b = 0; b < M3; b++) message[b] += k[a * M3 + b] * sw;
        }
        UNROLL for (int b = 0; b < M3; b++) NAME(store)(g + b * stride, message[b], r);
        return;
    }
    NAME(vec) total = {0};
    UNROLL for (int a = 0; a < M1; a++) {
        NAME(vec) kg = {0};
        UNROLL for (int b = 0; b < M3; b++) kg += k[a * M3 + b] * message[b];
        if (slot == FEATURE)
            NAME(store)(s + a * C, NAME(load)(s + a * C, r) + kg * NAME(load)(w, r), r);
        else
            total += kg * NAME(load)(s + a * C, r);
    }
    if (slot == WEIGHT) NAME(store)(w, NAME(load)(w, r) + total, r);
}

/* The last channels, where they do not fill a vector: compiled once, for any path. */
static __attribute__((noinline)) void NAME(last_block)(
    const int slot, const struct path *p, const int c, const struct NAME(rows) * row) {
    NAME(block)(slot, p->m1, p->m3, p->channels - c, p, c, row);
}

/* The same for couplings, which are sums over channels: all forms, of which those with
   the cotangents of the messages in common come one after another. */
static inline __attribute__((always_inline)) void NAME(couplings)(
    const int M1, const int M3, const struct path *p, const struct NAME(rows) * first,
    const struct NAME(rows) * end) {
    const int C = p->channels, stride = p->stride;
    REAL *k = first->of[COUPLING] + p->coupling;
    UNROLL for (int a = 0; a < M1; a++) {
        const int feature = p->feature + a * C;
        /* Eight components of the messages at a time: all there are up to degree 3. */
        for (int b0 = 0; b0 < M3; b0 += 8) {
            const int n = M3 - b0 < 8 ? M3 - b0 : 8;
            NAME(part) sum[8] = {{0}};
            for (const struct NAME(rows) *row = first, *next; row < end; row = next) {
                const REAL *g = row->of[MESSAGE];
                for (next = row + 1; next < end && next->of[MESSAGE] == g;) next++;
                g += p->message + b0 * stride;
#define PRODUCTS(r)                                                                  \
    NAME(part) sw = {0};                                                             \
    for (const struct NAME(rows) *form = row; form < next; form++)                   \
        sw += NAME(load_part)(form->of[FEATURE] + feature + c, r) *                  \
              NAME(load_part)(form->of[WEIGHT] + p->weight + c, r);                  \
    UNROLL for (int b = 0; b < n; b++) sum[b] +=                                     \
        sw * NAME(load_part)(g + b * stride + c, r);
                int c = 0;
                for (; c + NAME(PART) <= C; c += NAME(PART)) {
                    PRODUCTS(NAME(PART))
                }
                if (c < C) {
                    PRODUCTS(C - c)
                }
#undef PRODUCTS
            }
            NAME(add_totals)(k + a * M3 + b0, sum, n);
        }
    }
}

/* One edge, all channels of one path, all forms. */
static inline __attribute__((always_inline)) void NAME(path)(
    const int slot, const int M1, const int M3, const struct path *p,
    const struct NAME(rows) * row, const struct NAME(rows) * end) {
    if (slot == COUPLING) {
        NAME(couplings)(M1, M3, p, row, end);
        return;
    }
    for (; row < end; row++) {
        const int C = p->channels;
        int c = 0;
        for (; c + NAME(WIDTH) <= C; c += NAME(WIDTH))
            NAME(block)(slot, M1, M3, NAME(WIDTH), p, c, row);
        if (c < C) NAME(last_block)(slot, p, c, row);
    }
}

/* Whether all numbers of a row are zero. Where a direction moves few atoms, so are most
   rows of its couplings and weights; terms with such rows are left out, so that zero
   times infinity is zero here. */
static inline int NAME(is_zero)(const REAL *p, int64_t n) {
    enum { ROUND = 64 };
    for (; n >= ROUND; n -= ROUND, p += ROUND) {
        int found = 0;
        for (int i = 0; i < ROUND; i++) found |= p[i] != 0;
        if (found) return 0;
    }
    for (int64_t i = 0; i < n; i++)
        if (p[i] != 0) return 0;
    return 1;
}

/* Find the terms of one edge that are not zero; returns their number. */
static inline int NAME(terms)(const struct sum *x, const int64_t *at, REAL **rows,
                              REAL *out, struct NAME(rows) * found) {
    for (int i = 0; i < x->n_tensors; i++) {
        const int64_t width = x->widths[x->roles[i]];
        rows[i] = (REAL *)x->tensors[i] + at[x->roles[i]] * width;
        if (NAME(is_zero)(rows[i], width)) rows[i] = 0;
    }
    int n = 0;
    for (const int32_t *term = x->terms; term < x->terms + 4 * x->n_terms; term += 4) {
        int is_zero = 0;
        for (int role = 0; role < 4; role++) {
            found[n].of[role] = role == x->slot ? out : rows[term[role]];
            is_zero |= !found[n].of[role];
        }
        n += !is_zero;
    }
    return n;
}

/* All edges of some groups. */
static inline __attribute__((always_inline)) void NAME(slot)(
    const int slot, const struct sum *x, int64_t first, int64_t last) {
    const int64_t width = x->widths[slot];
    /* One more: a sum may have no terms, and no array has no elements. */
    REAL *rows[x->n_tensors + 1];
    struct NAME(rows) terms[x->n_terms + 1];
#define CASE(A, B)                                                                   \
    case 16 * A + B:                                                                 \
        NAME(path)(slot, A, B, p, terms, terms + n);                                  \
        break;
    for (int64_t group = first; group < last; group++) {
        REAL *row = (REAL *)x->out + group * width;
        /* Rows are cleared when they are due, and so stay near the processor. */
        if (slot != COUPLING) memset(row, 0, width * sizeof *row);
        if (slot == WEIGHT && x->still && x->still[group] &&
            NAME(is_zero)((const REAL *)x->own + group * width, width))
            continue;
        for (int64_t i = x->start[group]; i < x->start[group + 1]; i++) {
            const int64_t e = x->order[i];
            const int64_t at[4] = {e, x->neighbour[e], x->pair[e], x->centre[e]};
            if (slot == COUPLING) {
                row = (REAL *)x->out + e * width;
                memset(row, 0, width * sizeof *row);
            }
            const int n = NAME(terms)(x, at, rows, row, terms);
            if (n == 0) continue;
            for (const struct path *p = x->paths; p < x->paths + x->n_paths; p++) {
                switch (16 * p->m1 + p->m3) {
#ifndef __SANITIZE_ADDRESS__
                    CASE(1, 1) CASE(1, 3) CASE(1, 5) CASE(1, 7)
                    CASE(3, 1) CASE(3, 3) CASE(3, 5) CASE(3, 7)
                    CASE(5, 1) CASE(5, 3) CASE(5, 5) CASE(5, 7)
                    CASE(7, 1) CASE(7, 3) CASE(7, 5) CASE(7, 7)
#endif
                    default:
                        NAME(path)(slot, p->m1, p->m3, p, terms, terms + n);
                }
            }
        }
    }
#undef CASE
}

/* Write a sum of terms, for the groups first..last - 1. */
void NAME(contract)(const struct sum *x, int64_t first, int64_t last) {
#define SLOT(X)                                                                      \
    case X:                                                                          \
        NAME(slot)(X, x, first, last);                                                \
        break;
    switch (x->slot) { SLOT(COUPLING) SLOT(FEATURE) SLOT(WEIGHT) SLOT(MESSAGE) }
#undef SLOT
}
