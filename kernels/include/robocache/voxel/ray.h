// The voxels that the band of truncation about a point crosses on the ray from its sensor, and what the ray says of
// each: truncated signed distance, projected on the ray (Curless & Levoy 1996; the walk: Amanatides & Woo 1987).
#pragma once
#include "robocache/core/numbers.h"
#include "robocache/voxel/types.h"

namespace robocache {
inline namespace RC_ISA {

struct Vector {
  double x, y, z;
};
RC_INLINE double dot(const Vector& a, const Vector& b) { return (a.x * b.x + a.y * b.y) + a.z * b.z; }
RC_INLINE Vector cross(const Vector& a, const Vector& b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

// x y z qx qy qz qw; the quaternion may have any length.
struct Pose {
  Vector origin, axis;
  double w;
  RC_INLINE static Pose at(const double* p) { return {{p[0], p[1], p[2]}, {p[3], p[4], p[5]}, p[6]}; }
  RC_INLINE Vector turned(const Vector& v) const {
    const double square = dot(axis, axis) + w * w;
    const Vector c = cross(axis, v), cc = cross(axis, c);
    return {v.x + (w * c.x + cc.x) * 2.0 / square, v.y + (w * c.y + cc.y) * 2.0 / square,
            v.z + (w * c.z + cc.z) * 2.0 / square};
  }
};

// Distances are summed as integers of this part of the truncation: order does not matter, and 2^39 of them fit.
constexpr double kTsdfUnit = 1 << 24;

struct Walk {
  int64_t index, step;
  double to_edge, width;
  RC_INLINE static Walk along(double start, double lower, double size, double origin, double unit) {
    Walk w;
    w.index = int64_t(start);
    w.step = unit > 0 ? 1 : unit < 0 ? -1 : 0;
    const double edge = lower + double(w.index + (w.step > 0)) * size;
    w.to_edge = w.step ? (edge - origin) / unit : __builtin_inf();
    w.width = w.step ? size / magnitude(unit) : __builtin_inf();
    return w;
  }
  RC_INLINE void advance() {
    index += step;
    to_edge += width;
  }
};

// see(cell, distance in units) for each voxel. `most` ends a walk that rounding would never end.
template <class See>
RC_INLINE void walk_ray(const voxel::Grid& g, const Pose& pose, const Vector& point, double truncation, int64_t most,
                        const See& see) {
  const Vector ray = pose.turned(point), &origin = pose.origin;
  const double range = root(dot(ray, ray));
  const Vector unit{ray.x / range, ray.y / range, ray.z / range};
  double near = range - truncation;
  if (near < 0) near = 0;
  const double far = range + truncation;
  const double sx = ::floor((origin.x + unit.x * near - g.lower[0]) / g.size[0]);
  const double sy = ::floor((origin.y + unit.y * near - g.lower[1]) / g.size[1]);
  const double sz = ::floor((origin.z + unit.z * near - g.lower[2]) / g.size[2]);
  constexpr double kFar = 1 << 30;  // false for what is not finite
  if (!(range > 0 && magnitude(sx) < kFar && magnitude(sy) < kFar && magnitude(sz) < kFar)) return;
  Walk x = Walk::along(sx, g.lower[0], g.size[0], origin.x, unit.x);
  Walk y = Walk::along(sy, g.lower[1], g.size[1], origin.y, unit.y);
  Walk z = Walk::along(sz, g.lower[2], g.size[2], origin.z, unit.z);
  for (int64_t k = 0; k < most; ++k) {
    if (x.index >= 0 && x.index < g.shape[0] && y.index >= 0 && y.index < g.shape[1] && z.index >= 0 &&
        z.index < g.shape[2]) {
      const Vector centre{g.lower[0] + (double(x.index) + 0.5) * g.size[0] - origin.x,
                          g.lower[1] + (double(y.index) + 0.5) * g.size[1] - origin.y,
                          g.lower[2] + (double(z.index) + 0.5) * g.size[2] - origin.z};
      double distance = (range - dot(centre, unit)) / truncation;
      distance = distance < -1.0 ? -1.0 : distance > 1.0 ? 1.0 : distance;
      see((x.index * g.shape[1] + y.index) * g.shape[2] + z.index, int64_t(round_even(distance * kTsdfUnit)));
    }
    if (x.to_edge <= y.to_edge && x.to_edge <= z.to_edge) {
      if (!(x.to_edge < far)) return;
      x.advance();
    } else if (y.to_edge <= z.to_edge) {
      if (!(y.to_edge < far)) return;
      y.advance();
    } else {
      if (!(z.to_edge < far)) return;
      z.advance();
    }
  }
}

// Voxels that a ray can cross in the band, rounding included.
inline int64_t most_steps(const voxel::Grid& g, double truncation) {
  int64_t most = 0;
  for (const double size : g.size) {
    const double steps = 2 * truncation / size;
    most += int64_t(steps < 268435456.0 ? steps : 268435456.0) + 2;
  }
  return most;
}

// The mean of what a voxel had and of what a call's `count` rays say.
RC_INLINE void fuse_tsdf(float& distance, float& weight, int64_t total, int64_t count, double truncation) {
  if (count == 0) return;
  const double old = double(weight), now = old + double(count);
  distance = float((old * double(distance) + double(total) * (truncation / kTsdfUnit)) / now);
  weight = float(now);
}

}  // namespace RC_ISA
}  // namespace robocache
