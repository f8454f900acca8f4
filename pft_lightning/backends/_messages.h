/* Body of _messages.c, once for each floating-point type: see there.

   REAL: the type. NAME(x): x with its suffix. LOW_n(a, b), HIGH_n(a, b): the first and
   the second half of every part, where a and b consist of 2^n parts in all. */

typedef REAL NAME(vec) __attribute__((vector_size(64)));
enum { NAME(WIDTH) = 64 / sizeof(REAL) };

/* The first r numbers; r is a constant but for the last channels of a path. */
static inline NAME(vec) NAME(load)(const REAL *p, const int r) {
    NAME(vec) v = {0};
    memcpy(&v, p, r * sizeof(REAL));
    return v;
}

static inline void NAME(store)(REAL *p, NAME(vec) v, const int r) {
    memcpy(p, &v, r * sizeof(REAL));
}

/* Add the sums of the elements of up to eight vectors to as many numbers. */
static inline __attribute__((always_inline)) void NAME(add_totals)(
    REAL *p, const NAME(vec) * v, const int n) {
    const NAME(vec) zero = {0};
    NAME(vec) pair[4], four[2], sum;
    UNROLL for (int i = 0; i < 4; i++) {
        const NAME(vec) a = 2 * i < n ? v[2 * i] : zero;
        const NAME(vec) b = 2 * i + 1 < n ? v[2 * i + 1] : zero;
        pair[i] = LOW_1(a, b) + HIGH_1(a, b);
    }
    UNROLL for (int i = 0; i < 2; i++) four[i] =
        LOW_2(pair[2 * i], pair[2 * i + 1]) + HIGH_2(pair[2 * i], pair[2 * i + 1]);
    sum = LOW_3(four[0], four[1]) + HIGH_3(four[0], four[1]);
    REAL rest[NAME(WIDTH)];
    memcpy(rest, &sum, sizeof sum);
    UNROLL for (int i = 0; i < n; i++) UNROLL for (int j = 0; j < NAME(WIDTH) / 8; j++)
        p[i] += rest[NAME(WIDTH) / 8 * i + j];
}

/* One edge, r channels of one path: k, s, w and g are its blocks in the rows of the
   arguments; that of the slot is what is computed. */
static inline __attribute__((always_inline)) void NAME(block)(
    const int slot, const int M1, const int M3, const int C, const int stride,
    const int r, REAL *k, REAL *s, REAL *w, REAL *g) {
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

/* The same for couplings, which are sums over channels. */
static inline __attribute__((always_inline)) void NAME(couplings)(
    const int M1, const int M3, const int C, const int stride, REAL *k, const REAL *s,
    const REAL *w, const REAL *g) {
    UNROLL for (int a = 0; a < M1; a++) {
        /* Eight components of the messages at a time: all there are up to degree 3. */
        for (int b0 = 0; b0 < M3; b0 += 8) {
            const int n = M3 - b0 < 8 ? M3 - b0 : 8;
            NAME(vec) sum[8] = {{0}};
            for (int c = 0; c < C; c += NAME(WIDTH)) {
                const int r = C - c < NAME(WIDTH) ? C - c : NAME(WIDTH);
                if (r == NAME(WIDTH)) {
                    const NAME(vec) sw = NAME(load)(s + a * C + c, NAME(WIDTH)) *
                                         NAME(load)(w + c, NAME(WIDTH));
                    UNROLL for (int b = 0; b < n; b++) sum[b] +=
                        sw * NAME(load)(g + (b0 + b) * stride + c, NAME(WIDTH));
                } else {
                    const NAME(vec) sw =
                        NAME(load)(s + a * C + c, r) * NAME(load)(w + c, r);
                    UNROLL for (int b = 0; b < n; b++) sum[b] +=
                        sw * NAME(load)(g + (b0 + b) * stride + c, r);
                }
            }
            NAME(add_totals)(k + a * M3 + b0, sum, n);
        }
    }
}

/* One edge, all channels of one path. */
static inline __attribute__((always_inline)) void NAME(path)(
    const int slot, const int M1, const int M3, const int C, const int stride, REAL *k,
    REAL *s, REAL *w, REAL *g) {
    if (slot == COUPLING) {
        NAME(couplings)(M1, M3, C, stride, k, s, w, g);
        return;
    }
    int c = 0;
    for (; c + NAME(WIDTH) <= C; c += NAME(WIDTH))
        NAME(block)(slot, M1, M3, C, stride, NAME(WIDTH), k, s + c, w + c, g + c);
    if (c < C) NAME(block)(slot, M1, M3, C, stride, C - c, k, s + c, w + c, g + c);
}

/* All paths of the edges of some groups. */
static inline __attribute__((always_inline)) void NAME(slot)(
    const int slot, int n_paths, const struct path *paths, int64_t first, int64_t last,
    const struct edges *x, REAL *K, REAL *S, REAL *W, REAL *G, const struct widths *n) {
#define CASE(A, B)                                                                   \
    case 16 * A + B:                                                                 \
        NAME(path)(slot, A, B, p->channels, p->stride, k, s, w, g);                   \
        break;
    for (int64_t i = x->start[first]; i < x->start[last]; i++) {
        const int64_t e = x->order[i];
        REAL *row_k = K + e * n->couplings, *row_w = W + x->pair[e] * n->weights;
        REAL *row_s = S + x->neighbour[e] * n->features;
        REAL *row_g = G + x->centre[e] * n->messages;
        for (const struct path *p = paths; p < paths + n_paths; p++) {
            REAL *k = row_k + p->coupling, *s = row_s + p->feature;
            REAL *w = row_w + p->weight, *g = row_g + p->message;
            switch (16 * p->m1 + p->m3) {
                CASE(1, 1) CASE(1, 3) CASE(1, 5) CASE(1, 7)
                CASE(3, 1) CASE(3, 3) CASE(3, 5) CASE(3, 7)
                CASE(5, 1) CASE(5, 3) CASE(5, 5) CASE(5, 7)
                CASE(7, 1) CASE(7, 3) CASE(7, 5) CASE(7, 7)
                default:
                    NAME(path)(slot, p->m1, p->m3, p->channels, p->stride, k, s, w, g);
            }
        }
    }
#undef CASE
}

/* Add to the argument of a slot, for the edges of the groups first..last. */
void NAME(contract)(int slot, int n_paths, const struct path *paths, int64_t first,
                    int64_t last, const struct edges *x, REAL *K, REAL *S, REAL *W,
                    REAL *G, const struct widths *n) {
#define SLOT(X)                                                                      \
    case X:                                                                          \
        NAME(slot)(X, n_paths, paths, first, last, x, K, S, W, G, n);                 \
        break;
    switch (slot) { SLOT(COUPLING) SLOT(FEATURE) SLOT(WEIGHT) SLOT(MESSAGE) }
#undef SLOT
}
