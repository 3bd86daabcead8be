// Dual numbers (Clifford 1873; Baydin et al. 2018, "Automatic differentiation in machine learning", section 3.1.1): a
// value and its derivative by one variable. What is computed of them has the derivative of what was computed. Where
// nobody reads the derivative, the compiler leaves it out.

#pragma once

struct Dual {
    float value, slope;

    Dual(float value, float slope = 0) : value(value), slope(slope) {}
};

inline Dual operator-(Dual a) { return {-a.value, -a.slope}; }
inline Dual operator+(Dual a) { return a; }
inline Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.slope + b.slope}; }
inline Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.slope - b.slope}; }
inline Dual operator*(Dual a, Dual b) { return {a.value * b.value, a.slope * b.value + a.value * b.slope}; }
inline Dual operator/(Dual a, Dual b) {
    const float quotient = a.value / b.value;
    return {quotient, (a.slope - quotient * b.slope) / b.value};
}

inline bool operator<(Dual a, Dual b) { return a.value < b.value; }
inline bool operator>(Dual a, Dual b) { return a.value > b.value; }
inline bool operator<=(Dual a, Dual b) { return a.value <= b.value; }
inline bool operator>=(Dual a, Dual b) { return a.value >= b.value; }
inline bool operator==(Dual a, Dual b) { return a.value == b.value; }
inline bool operator!=(Dual a, Dual b) { return a.value != b.value; }

inline Dual fabsf(Dual x) { return x.value < 0 ? -x : x; }
inline Dual fminf(Dual a, Dual b) { return b.value < a.value ? b : a; }
inline Dual fmaxf(Dual a, Dual b) { return b.value > a.value ? b : a; }
inline Dual sqrtf(Dual x) {
    const float root = ::sqrtf(x.value);
    return {root, x.slope / (2 * root)};
}
inline Dual expf(Dual x) {
    const float power = ::expf(x.value);
    return {power, x.slope * power};
}
inline Dual logf(Dual x) { return {::logf(x.value), x.slope / x.value}; }
inline Dual sinf(Dual x) { return {::sinf(x.value), x.slope * ::cosf(x.value)}; }
inline Dual cosf(Dual x) { return {::cosf(x.value), -x.slope * ::sinf(x.value)}; }
inline Dual tanhf(Dual x) {
    const float t = ::tanhf(x.value);
    return {t, x.slope * (1 - t * t)};
}
// To a constant power.
inline Dual powf(Dual x, float power) {
    return {::powf(x.value, power), x.slope * power * ::powf(x.value, power - 1)};
}
