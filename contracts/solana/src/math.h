/* Arithmetic that says when it does not fit, named by rounding. Where a function returns an int it is TRUE for "did fit",
 * and the result is at `to`. Products are of 128 bits, by hand: the compiler's would call a function that is not there. */
#ifndef MATH_H
#define MATH_H

#include "sol.h"

#define BPS 10000UL
#define I64_MAX 0x7fffffffffffffffL
#define U64_MAX 0xffffffffffffffffUL

typedef struct {
    u64 low, high;
} Wide;

INLINE int add_u64(u64 a, u64 b, u64 *to) {
    *to = a + b;
    return *to >= a;
}
INLINE int sub_u64(u64 a, u64 b, u64 *to) {
    *to = a - b;
    return a >= b;
}
INLINE u64 min_u64(u64 a, u64 b) { return a < b ? a : b; }
INLINE u64 max_u64(u64 a, u64 b) { return a > b ? a : b; }
INLINE u64 sub_or_0(u64 a, u64 b) { return a > b ? a - b : 0; }

/* The whole product of two words, by halves (Knuth, The Art of Computer Programming 2, 4.3.1 M). */
static NOINLINE void mul_wide(u64 a, u64 b, Wide *to) {
    u64 a0 = a & 0xffffffffUL, a1 = a >> 32, b0 = b & 0xffffffffUL, b1 = b >> 32;
    u64 low = a0 * b0, cross = a1 * b0 + (low >> 32), other = a0 * b1 + (cross & 0xffffffffUL);
    to->low = (other << 32) | (low & 0xffffffffUL);
    to->high = a1 * b1 + (cross >> 32) + (other >> 32);
}

/* A wide number divided by a word: quotient and remainder. Needs high < divisor, else the quotient has more than 64 bits.
 * By halves of the quotient (Hacker's Delight, divlu). */
static NOINLINE u64 div_wide(const Wide *a, u64 divisor, u64 *remainder) {
    if (a->high == 0) {
        u64 quotient = a->low / divisor;
        *remainder = a->low - quotient * divisor;
        return quotient;
    }
    u64 shift = 0;
    while (!(divisor >> 63)) {
        divisor <<= 1;
        shift++;
    }
    u64 high = shift ? (a->high << shift) | (a->low >> (64 - shift)) : a->high, low = a->low << shift;
    u64 d1 = divisor >> 32, d0 = divisor & 0xffffffffUL, part[2] = {low >> 32, low & 0xffffffffUL}, quotient = 0;
    for (int i = 0; i < 2; i++) {
        u64 digit = high / d1, rest = high - digit * d1;
        while (digit >> 32 || digit * d0 > ((rest << 32) | part[i])) {
            digit--;
            rest += d1;
            if (rest >> 32) break;
        }
        high = ((high << 32) | part[i]) - digit * divisor;
        quotient = (quotient << 32) | digit;
    }
    *remainder = high >> shift;
    return quotient;
}

/* a * b / c, rounded down. FALSE when c is 0 or the quotient has more than 64 bits. */
static NOINLINE int mul_div_down(u64 a, u64 b, u64 c, u64 *to) {
    Wide product;
    u64 rest;
    mul_wide(a, b, &product);
    if (product.high >= c) return FALSE;
    *to = div_wide(&product, c, &rest);
    return TRUE;
}

/* The same, rounded up. */
static NOINLINE int mul_div_up(u64 a, u64 b, u64 c, u64 *to) {
    Wide product;
    u64 rest;
    mul_wide(a, b, &product);
    if (product.high >= c) return FALSE;
    *to = div_wide(&product, c, &rest);
    return rest == 0 || add_u64(*to, 1, to);
}

INLINE int mul_u64(u64 a, u64 b, u64 *to) {
    Wide product;
    mul_wide(a, b, &product);
    *to = product.low;
    return product.high == 0;
}

/* Whether a * b < c * d, whatever their size. */
static NOINLINE int is_product_less(u64 a, u64 b, u64 c, u64 d) {
    Wide left, right;
    mul_wide(a, b, &left);
    mul_wide(c, d, &right);
    return left.high < right.high || (left.high == right.high && left.low < right.low);
}

/* Whether `current` is more than `bps` below `base`; exactly at the limit is within it (GuardMath.isBelowBy). */
INLINE int is_below_by(u64 current, u64 base, u64 bps) {
    return bps < BPS && is_product_less(current, BPS, base, BPS - bps);
}

/* Signed sums of base units of quote. */
INLINE int add_i64(i64 a, i64 b, i64 *to) {
    u64 sum = (u64)a + (u64)b;
    *to = (i64)sum;
    return !((((u64)a ^ sum) & ((u64)b ^ sum)) >> 63);
}
INLINE int sub_i64(i64 a, i64 b, i64 *to) {
    u64 difference = (u64)a - (u64)b;
    *to = (i64)difference;
    return !((((u64)a ^ (u64)b) & ((u64)a ^ difference)) >> 63);
}
INLINE int to_i64(u64 a, i64 *to) {
    *to = (i64)a;
    return a <= (u64)I64_MAX;
}

#endif
