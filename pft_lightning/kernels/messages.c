/* Messages of a tensor-product convolution and every derivative of them.

   With couplings K (harmonics times coupling coefficients), features s, radial weights
   w and cotangents G of the messages, all layers of all derivatives need one form,

       F = sum over paths, edges e, a, b, c of
           K[e, a, b] s[neighbour(e), a, c] w[pair(e), c] G[centre(e), b, c],

   differentiated by one of its four arguments: by G it is the messages, by the others
   what backpropagation asks for, and since F is linear in each argument the derivatives
   of these are sums of such forms. Nothing as large as (edges, components, channels) is
   ever in memory.

   Compiled by compiled.py, described by interface.py, called by contraction.py; see
   docs/develop/kernels.md. */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum slot { COUPLING, FEATURE, WEIGHT, MESSAGE };
enum { MAX_M = 15 }; /* components of the highest degree */
#ifdef __SANITIZE_ADDRESS__ /* with its checks in unrolled loops it compiles for minutes */
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* A product of features and harmonics: components of features (m1) and messages (m3),
   and where its block begins in a row of K, s, w and G; stride: of components in G. */
struct path {
    int32_t m1, m3, channels, coupling, feature, weight, message, stride;
};

/* What to compute: the derivative by the argument `slot` of a sum of forms, into out.

   tensors, roles: the arguments, and which of the four each is. terms: for each form
   the places of its four arguments among them (that of the slot is not read).

   own, still: the tensor whose gradient this is, and for each of its rows whether it is
   zero whatever was computed before, so that zero will do for the gradient; or NULL.

   Edges come in groups, by centre, neighbour or pair, so that no two threads write one
   row: those of group i, which is row i of what is written (for couplings the edge is),
   are order[start[i]] .. order[start[i + 1] - 1]. */
struct sum {
    int32_t slot, n_paths, n_tensors, n_terms;
    const struct path *paths;
    const int32_t *roles, *terms;
    const void *const *tensors;
    void *out;
    const void *own;
    const uint8_t *still;
    const int64_t *start, *order, *centre, *neighbour, *pair;
    int64_t widths[4]; /* of rows */
};

/* What interface.py must agree with; it reads this list when the library is loaded, up to
   the entry without a name. A new field, slot or limit gets a line here. */
struct constant {
    const char *name;
    int64_t value;
};
#define SIZE(s) {"struct " #s, sizeof(struct s)}
#define FIELD(s, f) {"struct " #s "." #f, offsetof(struct s, f)}
#define VALUE(x) {#x, x}
const struct constant constants[] = {
    SIZE(path), SIZE(sum),
    FIELD(path, m1), FIELD(path, m3), FIELD(path, channels), FIELD(path, coupling),
    FIELD(path, feature), FIELD(path, weight), FIELD(path, message), FIELD(path, stride),
    FIELD(sum, slot), FIELD(sum, n_paths), FIELD(sum, n_tensors), FIELD(sum, n_terms),
    FIELD(sum, paths), FIELD(sum, roles), FIELD(sum, terms), FIELD(sum, tensors),
    FIELD(sum, out), FIELD(sum, own), FIELD(sum, still), FIELD(sum, start),
    FIELD(sum, order), FIELD(sum, centre), FIELD(sum, neighbour), FIELD(sum, pair),
    FIELD(sum, widths),
    VALUE(COUPLING), VALUE(FEATURE), VALUE(WEIGHT), VALUE(MESSAGE), VALUE(MAX_M),
    {0, 0}};

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE __builtin_shufflevector
#else /* older ones take the order as a vector of integers */
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (ORDER){__VA_ARGS__})
#endif
typedef int32_t order_f32 __attribute__((vector_size(32)));
typedef int64_t order_f64 __attribute__((vector_size(32)));

#define REAL float
#define ORDER order_f32
#define NAME(x) x##_f32
#define STEPS 3
#define LOW_1(a, b) SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define HIGH_1(a, b) SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#define LOW_2(a, b) SHUFFLE(a, b, 0, 1, 4, 5, 8, 9, 12, 13)
#define HIGH_2(a, b) SHUFFLE(a, b, 2, 3, 6, 7, 10, 11, 14, 15)
#define LOW_3(a, b) SHUFFLE(a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define HIGH_3(a, b) SHUFFLE(a, b, 1, 3, 5, 7, 9, 11, 13, 15)
#include "messages.h"
#undef REAL
#undef ORDER
#undef NAME
#undef STEPS
#undef LOW_1
#undef HIGH_1
#undef LOW_2
#undef HIGH_2

#define REAL double
#define ORDER order_f64
#define NAME(x) x##_f64
#define STEPS 2
#define LOW_1(a, b) SHUFFLE(a, b, 0, 1, 4, 5)
#define HIGH_1(a, b) SHUFFLE(a, b, 2, 3, 6, 7)
#define LOW_2(a, b) SHUFFLE(a, b, 0, 2, 4, 6)
#define HIGH_2(a, b) SHUFFLE(a, b, 1, 3, 5, 7)
#include "messages.h"
