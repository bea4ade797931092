// Rotations, one at a time: each representation to and from unit quaternions (x y z w) or matrices (3 x 3, row by row).
// robocache/ops/rotations.py says what they are and what is no rotation; reference/rotations.py says the same in torch.
#pragma once
#include "robocache/geometry/trig.h"

namespace robocache::rotation {

enum class Kind : int32_t { xyzw, wxyz, matrix, axis_angle, rot6d, rot6d_rows, euler };

// Of euler: the axes, 0 to 2, in the order of their angles, and whether they turn along (intrinsic).
struct Representation {
  Kind kind;
  int32_t axis[3];
  bool intrinsic;
};
constexpr int kMostNumbers = 9;

inline namespace RC_ISA {

RC_INLINE int width_of(Kind kind) {
  return kind == Kind::matrix ? 9 : kind == Kind::rot6d || kind == Kind::rot6d_rows ? 6 : kind >= Kind::axis_angle ? 3 : 4;
}
RC_INLINE bool of_matrix(Kind kind) {
  return kind == Kind::matrix || kind == Kind::rot6d || kind == Kind::rot6d_rows;
}

// v[i] for an i that the compiler does not know: an array that is indexed so would go to memory.
template <class A> RC_INLINE A pick(const A* v, int i) { return i == 0 ? v[0] : i == 1 ? v[1] : v[2]; }

template <class A> RC_INLINE void cross(const A* a, const A* b, A* out) {
  out[0] = a[1] * b[2] - a[2] * b[1];
  out[1] = a[2] * b[0] - a[0] * b[2];
  out[2] = a[0] * b[1] - a[1] * b[0];
}
template <class A> RC_INLINE A dot3(const A* a, const A* b) { return fused(a[2], b[2], fused(a[1], b[1], a[0] * b[0])); }

// Of the two quaternions of a rotation the one with w >= 0; of half a turn the one whose first number that is not 0 is
// positive.
template <class A> RC_INLINE void upper(A* q) {
  const A lead = q[3] != A(0) ? q[3] : q[0] != A(0) ? q[0] : q[1] != A(0) ? q[1] : q[2];
  for (int i = 0; i < 4; ++i) q[i] = lead < A(0) ? -q[i] : q[i];
}

// out = p q. Nothing is fused, and what cancels stands together: a turn times its inverse is exactly 0 0 0 and a number.
template <class A> RC_INLINE void multiply(const A* p, const A* q, A* out) {
  const A x = (p[3] * q[0] + p[0] * q[3]) + (p[1] * q[2] - p[2] * q[1]);
  const A y = (p[3] * q[1] + p[1] * q[3]) + (p[2] * q[0] - p[0] * q[2]);
  const A z = (p[3] * q[2] + p[2] * q[3]) + (p[0] * q[1] - p[1] * q[0]);
  const A w = (p[3] * q[3] - p[0] * q[0]) - (p[1] * q[1] + p[2] * q[2]);
  out[0] = x, out[1] = y, out[2] = z, out[3] = w;
}

// The vector v turned by the unit quaternion q.
template <class A> RC_INLINE void rotate(const A* q, const A* v, A* out) {
  A twice[3], again[3];
  cross(q, v, twice);
  for (int i = 0; i < 3; ++i) twice[i] *= A(2);
  cross(q, twice, again);
  for (int i = 0; i < 3; ++i) out[i] = v[i] + q[3] * twice[i] + again[i];
}

// The angle of the point (x, y), in [-pi, pi], as atan2(y, x), by the polynomial of geometry/quaternion.h.
template <class A> RC_INLINE A angle_of(A y, A x) {
  const A across = magnitude(y), along = magnitude(x);
  const bool steep = across > along;
  const A large = steep ? across : along, t = large == A(0) ? A(0) : (steep ? along : across) / large;
  A angle = t * (A(0.5) * root(angle2(t * t)));
  if (steep) angle = (Quarter<A>::first - angle) + Quarter<A>::second;
  if (x < A(0)) angle = (A(2) * Quarter<A>::first - angle) + A(2) * Quarter<A>::second;
  return y < A(0) ? -angle : angle;
}

// Of at most a turn beyond (-pi, pi].
template <class A> RC_INLINE A wrapped(A angle) {
  constexpr A pi = A(2) * Quarter<A>::first;
  angle = angle > pi ? angle - A(2) * pi : angle;
  return angle <= -pi ? angle + A(2) * pi : angle;
}

// Shepperd's method (J. Guidance and Control 1978): divided by the largest component, never by a small one. The rows of
// the matrix are kStride numbers apart.
template <int kStride, class A> RC_INLINE bool matrix_to_quaternion(const A* m, A* q) {
  constexpr int S = kStride;
  const A xx = m[0], yy = m[S + 1], zz = m[2 * S + 2], trace = xx + yy + zz;
  const A square[4] = {A(1) + A(2) * xx - trace, A(1) + A(2) * yy - trace, A(1) + A(2) * zz - trace, A(1) + trace};
  const A xy = m[1] + m[S], xz = m[2] + m[2 * S], yz = m[S + 2] + m[2 * S + 1];
  const A wx = m[2 * S + 1] - m[S + 2], wy = m[2] - m[2 * S], wz = m[S] - m[1];
  A best = square[0];
  A v[4] = {square[0], xy, xz, wx};
  if (square[1] > best) best = square[1], v[0] = xy, v[1] = square[1], v[2] = yz, v[3] = wy;
  if (square[2] > best) best = square[2], v[0] = xz, v[1] = yz, v[2] = square[2], v[3] = wz;
  if (square[3] > best) best = square[3], v[0] = wx, v[1] = wy, v[2] = wz, v[3] = square[3];
  const bool good = normalize(v, q);
  upper(q);
  return good;
}

template <class A> RC_INLINE void quaternion_to_matrix(const A* q, A* m) {
  const A x = q[0], y = q[1], z = q[2], w = q[3];
  m[0] = A(1) - A(2) * (y * y + z * z), m[1] = A(2) * (x * y - z * w), m[2] = A(2) * (x * z + y * w);
  m[3] = A(2) * (x * y + z * w), m[4] = A(1) - A(2) * (x * x + z * z), m[5] = A(2) * (y * z - x * w);
  m[6] = A(2) * (x * z - y * w), m[7] = A(2) * (y * z + x * w), m[8] = A(1) - A(2) * (x * x + y * y);
}

template <class A> RC_INLINE void transpose(A* m) {
  RC_UNROLL
  for (int i = 1; i < 3; ++i) {
    RC_UNROLL
    for (int j = 0; j < i; ++j) {
      const A kept = m[3 * i + j];
      m[3 * i + j] = m[3 * j + i], m[3 * j + i] = kept;
    }
  }
}

// An element of M^T M may be this far from the identity's.
constexpr double kTolerance = 1e-2;

template <class A> RC_INLINE bool orthonormal(const A* m) {
  bool good = true;
  RC_UNROLL
  for (int i = 0; i < 3; ++i) {
    RC_UNROLL
    for (int j = i; j < 3; ++j) {
      const A sum = fused(m[6 + i], m[6 + j], fused(m[3 + i], m[3 + j], m[i] * m[j]));
      good &= magnitude(sum - A(i == j)) < A(kTolerance);
    }
  }
  A normal[3];
  cross(m, m + 3, normal);
  return good && dot3(normal, m + 6) > A(0);  // what mirrors is none
}

// The columns, or rows, of the matrix by Gram and Schmidt. False where the two vectors are parallel or one is zero.
template <class A> RC_INLINE bool rot6d_to_matrix(const A* v, bool rows, A* m) {
  constexpr A eps = sizeof(A) == 4 ? A(1.1920929e-07) : A(2.220446049250313e-16);
  A first[3], second[3] = {v[3], v[4], v[5]}, third[3], direction[3];
  bool good = unit<3>(v, first);
  good &= unit<3>(second, direction);  // its size would only over- or underflow
  for (int pass = 0; pass < 2; ++pass) {  // the second time takes what the first left of nearly parallel ones
    const A along = dot3(first, direction);
    for (int i = 0; i < 3; ++i) direction[i] = fused(-along, first[i], direction[i]);
  }
  good &= root(norm2_of<3>(direction)) > A(8) * eps;
  good &= unit<3>(direction, second);
  cross(first, second, third);
  for (int i = 0; i < 3; ++i) m[3 * i] = first[i], m[3 * i + 1] = second[i], m[3 * i + 2] = third[i];
  if (rows) transpose(m);
  return good;
}

// Angles about axes: each turn's quaternion, one after the other.
template <class A> RC_INLINE bool euler_to_quaternion(const A* angles, const Representation& as, A* q) {
  RC_UNROLL
  for (int k = 0; k < 3; ++k) {
    A sine, cosine;
    sine_cosine(A(0.5) * angles[k], sine, cosine);
    const int axis = as.axis[k];
    const A turn[4] = {axis == 0 ? sine : A(0), axis == 1 ? sine : A(0), axis == 2 ? sine : A(0), cosine};
    if (k == 0) {
      for (int i = 0; i < 4; ++i) q[i] = turn[i];
    } else if (as.intrinsic) {
      multiply(q, turn, q);
    } else {
      multiply(turn, q, q);
    }
  }
  upper(q);
  return true;
}

// Bernardes and Viollet, PLoS ONE 2022: half sums and differences of the outer angles, without a matrix.
template <class A> RC_INLINE void quaternion_to_euler(const A* q, const Representation& as, A* angles) {
  constexpr A least = sizeof(A) == 4 ? A(4 * 1.1920929e-07) : A(4 * 2.220446049250313e-16);
  const int i = as.axis[as.intrinsic ? 2 : 0], j = as.axis[1], last = as.axis[as.intrinsic ? 0 : 2];
  const bool proper = i == last;
  const int k = proper ? 3 - i - j : last;
  const A sign = A((i - j) * (j - k) * (k - i) / 2), w = q[3], x = pick(q, i), y = pick(q, j), z = pick(q, k) * sign;
  const A a = proper ? w : w - y, b = proper ? x : x + z, c = proper ? y : y + w, d = proper ? z : z - x;
  const A across = root(fused(c, c, d * d)), along = root(fused(a, a, b * b));
  A middle = A(2) * angle_of(across, along);
  // Where one of the two is rounding, its angle is noise: only the sum, or the difference, of the outer ones is known.
  const bool low = across <= least, high = !low && along <= least;
  const A plus = angle_of(b, a), minus = angle_of(d, c);
  A first = low ? A(2) * plus : high ? A(-2) * minus : plus - minus, third = low || high ? A(0) : plus + minus;
  if (as.intrinsic) {  // the extrinsic order is the reverse, and the last angle of the intrinsic one shall be 0
    third = low ? A(2) * plus : high ? A(2) * minus : third;
    first = low || high ? A(0) : first;
  }
  if (!proper) {
    third *= sign;
    middle -= Quarter<A>::first;
  }
  angles[0] = wrapped(as.intrinsic ? third : first), angles[1] = middle, angles[2] = wrapped(as.intrinsic ? first : third);
}

template <class A> RC_INLINE bool axis_angle_to_quaternion(const A* v, A* q) {
  const A square = norm2_of<3>(v);
  A scale = fused(square, A(-1.0 / 48), A(0.5)), w = fused(square, A(-0.125), A(1));
  if (!(square < A(1e-8))) {
    const A angle = root(square);
    A sine;
    sine_cosine(A(0.5) * angle, sine, w);
    scale = sine / angle;
  }
  const A turn[4] = {v[0] * scale, v[1] * scale, v[2] * scale, w};
  const bool good = normalize(turn, q);
  upper(q);
  return good;
}

template <class A> RC_INLINE void quaternion_to_axis_angle(const A* from, A* v) {
  A q[4] = {from[0], from[1], from[2], from[3]};
  upper(q);
  const A square = norm2_of<3>(q);
  A scale = fused(square, A(1.0 / 3), A(2));  // w is 1 - square / 2 there
  if (!(square < A(1e-8))) {
    const A sine = root(square);
    scale = A(2) * angle_of(sine, q[3]) / sine;
  }
  for (int i = 0; i < 3; ++i) v[i] = q[i] * scale;
}

template <class A> RC_INLINE bool to_matrix(const A* x, Kind kind, A* m) {
  if (kind != Kind::matrix) return rot6d_to_matrix(x, kind == Kind::rot6d_rows, m);
  for (int i = 0; i < 9; ++i) m[i] = x[i];
  return orthonormal(m);
}

template <class A> RC_INLINE void from_matrix(A* m, Kind kind, A* out) {
  if (kind == Kind::rot6d) transpose(m);
  for (int i = 0; i < 9; ++i) out[i] = m[i];
}

// One rotation of width_of(source) numbers as width_of(target), all NaN where it is none. Both arrays have room for
// kMostNumbers.
template <class A>
RC_INLINE void convert(const A* x, const Representation& source, const Representation& target, A* out) {
  bool good;
  A m[9], q[4];
  if (of_matrix(source.kind) && of_matrix(target.kind)) {
    good = to_matrix(x, source.kind, m);
    from_matrix(m, target.kind, out);
  } else {
    if (of_matrix(source.kind)) {
      good = to_matrix(x, source.kind, m) & matrix_to_quaternion<3>(m, q);
    } else if (source.kind == Kind::euler) {
      good = euler_to_quaternion(x, source, q);
    } else if (source.kind == Kind::axis_angle) {
      good = axis_angle_to_quaternion(x, q);
    } else {
      const bool w_last = source.kind == Kind::xyzw;
      const A turn[4] = {w_last ? x[0] : x[1], w_last ? x[1] : x[2], w_last ? x[2] : x[3], w_last ? x[3] : x[0]};
      good = normalize(turn, q);
    }
    if (of_matrix(target.kind)) {
      quaternion_to_matrix(q, m);
      from_matrix(m, target.kind, out);
    } else if (target.kind == Kind::euler) {
      quaternion_to_euler(q, target, out);
    } else if (target.kind == Kind::axis_angle) {
      quaternion_to_axis_angle(q, out);
    } else {
      const bool w_last = target.kind == Kind::xyzw;
      const A w = q[3], x0 = q[0], y0 = q[1], z0 = q[2];
      out[0] = w_last ? x0 : w, out[1] = w_last ? y0 : x0, out[2] = w_last ? z0 : y0, out[3] = w_last ? w : z0;
    }
  }
  const int width = width_of(target.kind);
  A sum = A(0);  // 0, or NaN
  for (int i = 0; i < kMostNumbers; ++i) sum += i < width ? out[i] - out[i] : A(0);
  if (!(good && sum == A(0))) {
    for (int i = 0; i < kMostNumbers; ++i) out[i] = not_a_number<A>();
  }
}

// Poses x y z qx qy qz qw: inv(base) pose, or (compose) base pose. Quaternions need not be normalised, the result's is,
// with w >= 0; all NaN where one has no direction or a number is NaN.
template <class A> RC_INLINE void relative(const A* pose, const A* base, bool compose, A* out) {
  A p[4], b[4], offset[3];
  const bool good = normalize(pose + 3, p) & normalize(base + 3, b);
  for (int i = 0; i < 3; ++i) {
    b[i] = compose ? b[i] : -b[i];
    offset[i] = compose ? pose[i] : pose[i] - base[i];
  }
  A place[3];
  rotate(b, offset, place);
  for (int i = 0; i < 3; ++i) out[i] = compose ? place[i] + base[i] : place[i];
  multiply(b, p, out + 3);
  upper(out + 3);
  bool whole = good;
  for (int i = 0; i < 7; ++i) whole &= out[i] == out[i];
  for (int i = 0; i < 7; ++i) out[i] = whole ? out[i] : not_a_number<A>();
}

}  // namespace RC_ISA
}  // namespace robocache::rotation
