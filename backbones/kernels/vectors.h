/* Vectors of floats of the width of the machine's registers. Compilers make code that is several times as slow
 * from wider ones. */
#ifndef VECTORS_H
#define VECTORS_H
#include <string.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif

typedef float Vector __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));
typedef int Integers __attribute__((vector_size(LANES * sizeof(int)), aligned(sizeof(int))));

/* Loads count floats, and zeros after them; count may be larger than a vector. */
static inline Vector load(const float *from, long count)
{
    Vector v = {0};
    if (count >= LANES)
        return *(const Vector *)from;
    memcpy(&v, from, count * sizeof(float));
    return v;
}

static inline void store(float *into, Vector v, long count)
{
    if (count >= LANES)
        *(Vector *)into = v;
    else
        memcpy(into, &v, count * sizeof(float));
}

static inline float sum_of(Vector v)
{
    float sum = 0;
    for (int i = 0; i < LANES; i++)
        sum += v[i];
    return sum;
}

static inline Vector choose(Integers mask, Vector yes, Vector no)
{
    return (Vector)((mask & (Integers)yes) | (~mask & (Integers)no));
}
#endif
