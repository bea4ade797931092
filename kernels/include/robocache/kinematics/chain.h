// A robot's links as a flat chain, and one row of coordinates put through it. Host and device give the same bits.
#pragma once
#include <cstdint>

#include "robocache/geometry/rotation.h"

namespace robocache::kinematics {

constexpr int kMost = 64;  // nodes, and links of one call

enum class Form : int32_t { frame, pose, rot6d };  // 3 x 4 numbers; x y z qx qy qz qw; x y z and two columns

// Nodes are moving joints about (along) the z axis of their own frame, parents before children; links are fixed to
// nodes, those of earlier nodes first. Frames are 3 x 4, row by row. Small enough to be a kernel's argument.
template <class A> struct Chain {
  int32_t nodes, joints, links;
  int8_t parent[kMost];       // -1: the base
  uint8_t sliding[kMost];     // along z, not about it
  uint8_t coordinate[kMost];  // which number of a row moves it
  uint8_t kept[kMost];        // whether a node that is not the next one begins here
  int8_t node[kMost];         // of a link; -1: the base
  uint8_t place[kMost];       // of a link, among the outputs
  A before[kMost][12];        // a node's frame at 0 in its parent's
  A factor[kMost], offset[kMost];
  A behind[kMost][12];  // a link's frame in its node's
};

inline namespace RC_ISA {

RC_INLINE int width_of(Form form) { return form == Form::frame ? 12 : form == Form::pose ? 7 : 9; }

template <class A> RC_INLINE void identity(A* f) {
  for (int i = 0; i < 12; ++i) f[i] = i % 5 == 0 ? A(1) : A(0);
}

// f = f step
template <class A> RC_INLINE void advance(A* f, const A* step) {
  for (int i = 0; i < 12; i += 4) {
    const A a = f[i], b = f[i + 1], c = f[i + 2], d = f[i + 3];
    for (int j = 0; j < 3; ++j) f[i + j] = fused(c, step[8 + j], fused(b, step[4 + j], a * step[j]));
    f[i + 3] = fused(c, step[11], fused(b, step[7], fused(a, step[3], d)));
  }
}

template <class A> RC_INLINE void move(A* f, A by, bool sliding) {
  if (sliding) {
    for (int i = 0; i < 12; i += 4) f[i + 3] = fused(f[i + 2], by, f[i + 3]);
    return;
  }
  A s, c;
  sine_cosine(by, s, c);
  for (int i = 0; i < 12; i += 4) {
    const A x = f[i], y = f[i + 1];
    f[i] = fused(y, s, x * c);
    f[i + 1] = fused(y, c, -(x * s));
  }
}

template <class A> RC_INLINE void write(const A* f, Form form, A* out) {
  if (form == Form::frame) {
    for (int i = 0; i < 12; ++i) out[i] = f[i];
    return;
  }
  for (int i = 0; i < 3; ++i) out[i] = f[4 * i + 3];
  if (form == Form::pose) {
    A q[4];
    rotation::matrix_to_quaternion<4>(f, q);
    for (int i = 0; i < 4; ++i) out[3 + i] = q[i];
  } else {
    for (int i = 0; i < 6; ++i) out[3 + i] = f[4 * (i % 3) + i / 3];
  }
}

// f, the frame of node k's parent, becomes that of the node; x: the number of the row that moves it.
template <class A> RC_INLINE void pass(const Chain<A>& chain, int k, A x, A* f) {
  advance(f, chain.before[k]);
  move(f, fused(chain.factor[k], x, chain.offset[k]), chain.sliding[k] != 0);
}

// The velocity (3 linear, 3 angular) of a link's origin, f being its frame, by a unit of a node's own; z: the node's axis
// and origin. Along the base's axes, or (body) along the link's.
template <class A> RC_INLINE void velocity(bool sliding, const A* z, const A* f, bool body, A* out) {
  A v[6] = {z[0], z[1], z[2], A(0), A(0), A(0)};
  if (!sliding) {
    const A arm[3] = {f[3] - z[3], f[7] - z[4], f[11] - z[5]};
    RC_UNROLL
    for (int i = 0; i < 3; ++i) {
      const int m = (i + 1) % 3, n = (i + 2) % 3;
      v[i] = fused(z[m], arm[n], -(z[n] * arm[m]));
      v[3 + i] = z[i];
    }
  }
  RC_UNROLL
  for (int i = 0; i < 6; ++i) {
    const int row = i % 3, half = i - row;
    out[i] = body ? fused(f[8 + row], v[half + 2], fused(f[4 + row], v[half + 1], f[row] * v[half])) : v[i];
  }
}

// True of an arm: one link behind a chain of nodes without a branch.
template <class A> bool serial(const Chain<A>& chain) {
  for (int k = 0; k < chain.nodes; ++k) {
    if (chain.parent[k] != k - 1) return false;
  }
  return chain.links == 1 && chain.node[0] == chain.nodes - 1;
}
// True where no number of a row moves two nodes.
template <class A> bool without_mimics(const Chain<A>& chain) {
  uint64_t seen = 0;
  for (int k = 0; k < chain.nodes; ++k) {
    const uint64_t bit = uint64_t(1) << chain.coordinate[k];
    if (seen & bit) return false;
    seen |= bit;
  }
  return true;
}

template <class A> RC_INLINE bool finite(const A* q, int joints) {
  A sum = A(0);
  for (int j = 0; j < joints; ++j) sum += q[j] - q[j];  // 0, or NaN
  return sum == A(0);
}

// at_node(k, frame) at every node; at_link(l, frame) at every link.
template <class A, class AtNode, class AtLink>
RC_INLINE void walk(const Chain<A>& chain, const A* q, const AtNode& at_node, const AtLink& at_link) {
  A kept[kMost][12], f[12];
  int link = 0;
  const auto links_of = [&](int k) {
    for (; link < chain.links && chain.node[link] == k; ++link) {
      A tip[12];
      for (int i = 0; i < 12; ++i) tip[i] = f[i];
      advance(tip, chain.behind[link]);
      at_link(link, tip);
    }
  };
  identity(f);
  links_of(-1);
  for (int k = 0; k < chain.nodes; ++k) {
    const int parent = chain.parent[k];
    if (parent < 0) {
      identity(f);
    } else if (parent != k - 1) {
      for (int i = 0; i < 12; ++i) f[i] = kept[parent][i];
    }
    pass(chain, k, q[chain.coordinate[k]], f);
    if (chain.kept[k]) {
      for (int i = 0; i < 12; ++i) kept[k][i] = f[i];
    }
    at_node(k, f);
    links_of(k);
  }
}

// One row: q [joints] to out [links, width].
template <class A> RC_INLINE void forward(const Chain<A>& chain, const A* q, Form form, A* out) {
  const int width = width_of(form);
  if (!finite(q, chain.joints)) {
    for (int i = 0; i < chain.links * width; ++i) out[i] = A(NAN);
    return;
  }
  walk(chain, q, [](int, const A*) {}, [&](int l, const A* f) { write(f, form, out + chain.place[l] * width); });
}

// One row: q [joints] to out [links, 6, joints], the velocity of each link's origin, linear rows first, along the base's
// axes, or (body) along its own.
template <class A> RC_INLINE void jacobian(const Chain<A>& chain, const A* q, bool body, A* out) {
  const int joints = chain.joints;
  const bool good = finite(q, joints);
  for (int i = 0; i < chain.links * 6 * joints; ++i) out[i] = good ? A(0) : A(NAN);
  if (!good) return;
  A axis[kMost][6];  // the z axis and the origin of each node
  walk(
      chain, q,
      [&](int k, const A* f) {
        for (int i = 0; i < 3; ++i) axis[k][i] = f[4 * i + 2], axis[k][3 + i] = f[4 * i + 3];
      },
      [&](int l, const A* f) {
        A* j = out + chain.place[l] * 6 * joints;
        for (int k = chain.node[l]; k >= 0; k = chain.parent[k]) {
          A own[6];
          velocity(chain.sliding[k] != 0, axis[k], f, body, own);
          A* column = j + chain.coordinate[k];
          for (int i = 0; i < 6; ++i) column[i * joints] = fused(chain.factor[k], own[i], column[i * joints]);
        }
      });
}

}  // namespace RC_ISA
}  // namespace robocache::kinematics
