/* An activation without parameters, and its gradient, in one pass each: base(x) of numbers.h. */
#include "numbers.h"

void activate(const INPUT *restrict x, FEATURE *restrict y, long n) {
    #pragma omp parallel for if (n >= WORTH_A_THREAD)
    for (long first = 0; first < n; first += BLOCK) {
        int count = n - first < BLOCK ? n - first : BLOCK;
        float buffer[BLOCK], *values = in_place(y + first, buffer);
        for (int i = 0; i < count; i++) values[i] = base(load(x + first + i));
        store(y + first, values, count);
    }
}

void pull_back(const INPUT *restrict x, const FEATURE *restrict grad, INPUT *restrict grad_x,
               long n) {
    #pragma omp parallel for if (n >= WORTH_A_THREAD)
    for (long first = 0; first < n; first += BLOCK) {
        int count = n - first < BLOCK ? n - first : BLOCK;
        float buffer[BLOCK], *values = in_place(grad_x + first, buffer);
        #pragma omp simd
        for (int i = 0; i < count; i++)
            values[i] = load(grad + first + i) * base_slope(load(x + first + i));
        store(grad_x + first, values, count);
    }
}
