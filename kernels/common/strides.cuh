// Tensors (batch, token, head, ..) of any layout in which the elements of a head are contiguous.

#pragma once

// Elements from one batch, token and head to the next.
struct Strides { long long batch, token, head; };

template <class T> T* at(T* tensor, const Strides& strides, long long batch, long long token, long long head) {
    return tensor + batch * strides.batch + token * strides.token + head * strides.head;
}
