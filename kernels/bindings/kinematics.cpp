// robocache::forward_kinematics and robocache::geometric_jacobian.
#include <torch/csrc/autograd/autograd_not_implemented_fallback.h>

#include <cmath>

#include "bindings/common.h"
#include "cpu/kinematics/forward.h"
#include "cpu/threads.h"
#define RC_ISA isa_baseline
#include "robocache/kinematics/chain.h"
#ifdef ROBOCACHE_CUDA
#include "cuda/kinematics/forward.h"
#endif

namespace robocache {
namespace {

using kinematics::Chain;
using kinematics::Form;
using kinematics::kMost;

// structure: nodes, joints, links; parent, sliding, coordinate of each node; node and place of each link
// numbers:   12 of before, factor, offset of each node; 12 of behind of each link
template <class A>
Chain<A> chain_of(const char* op, at::ArrayRef<int64_t> structure, at::ArrayRef<double> numbers) {
  TORCH_CHECK_VALUE(structure.size() >= 3, op, ": structure has ", structure.size(), " numbers");
  const int64_t nodes = structure[0], joints = structure[1], links = structure[2];
  TORCH_CHECK_VALUE(0 <= nodes && nodes <= kMost && 0 <= joints && joints <= kMost && 1 <= links && links <= kMost, op,
                    ": ", nodes, " nodes, ", joints, " joints and ", links, " links; at most ", kMost, " of each");
  TORCH_CHECK_VALUE(int64_t(structure.size()) == 3 + 3 * nodes + 2 * links &&
                        int64_t(numbers.size()) == 14 * nodes + 12 * links,
                    op, ": structure has ", structure.size(), " and numbers ", numbers.size(), " numbers for ", nodes,
                    " nodes and ", links, " links");
  Chain<A> chain{};
  chain.nodes = int32_t(nodes), chain.joints = int32_t(joints), chain.links = int32_t(links);
  const int64_t* s = structure.data() + 3;
  const double* x = numbers.data();
  for (int64_t k = 0; k < nodes; ++k, s += 3, x += 14) {
    TORCH_CHECK_VALUE(-1 <= s[0] && s[0] < k && 0 <= s[2] && s[2] < joints, op, ": node ", k, " has the parent ", s[0],
                      " and the coordinate ", s[2]);
    chain.parent[k] = int8_t(s[0]), chain.sliding[k] = s[1] != 0, chain.coordinate[k] = uint8_t(s[2]);
    if (s[0] >= 0 && s[0] != k - 1) chain.kept[s[0]] = 1;
    for (int i = 0; i < 12; ++i) chain.before[k][i] = A(x[i]);
    chain.factor[k] = A(x[12]), chain.offset[k] = A(x[13]);
  }
  for (int64_t l = 0, last = -1; l < links; ++l, s += 2, x += 12) {
    TORCH_CHECK_VALUE(last <= s[0] && s[0] < nodes && 0 <= s[1] && s[1] < links, op, ": link ", l, " is fixed to node ",
                      s[0], ", behind that of the link before, with the place ", s[1]);
    chain.node[l] = int8_t(last = s[0]), chain.place[l] = uint8_t(s[1]);
    for (int i = 0; i < 12; ++i) chain.behind[l][i] = A(x[i]);
  }
  return chain;
}

void check(const char* op, const Tensor& q, at::ArrayRef<int64_t> structure) {
  TORCH_CHECK_VALUE(q.scalar_type() == at::kDouble || q.scalar_type() == at::kFloat, op, ": q is ", q.scalar_type(),
                    "; use float64 or float32");
  TORCH_CHECK_VALUE(structure.size() >= 3 && q.dim() == 2 && q.size(1) == structure[1], op, ": q must be [N, ",
                    structure.size() >= 3 ? structure[1] : 0, "], got ", q.sizes());
}

// run(chain, q, out, begin, end) on the host, launch(chain, q, out, rows, stream) on a device.
template <class A, class Run, class Launch>
void apply(const Chain<A>& chain, const Tensor& q, const Tensor& out, int64_t width, const Run& run,
           [[maybe_unused]] const Launch& launch) {
  const A* from = q.const_data_ptr<A>();
  A* to = out.mutable_data_ptr<A>();
  const int64_t rows = q.size(0);
#ifdef ROBOCACHE_CUDA
  if (q.is_cuda()) {
    on_device(q.device(), [&](cudaStream_t stream) { launch(chain, from, to, rows, stream); });
    return;
  }
#endif
  const int64_t each = std::max<int64_t>(1, cpu::kPiece / (8 * chain.nodes + width + 1));
  cpu::in_threads((rows + each - 1) / each, at::get_num_threads(),
                  [&](int64_t p) { run(chain, from, to, p * each, std::min(rows, (p + 1) * each)); });
}

template <class A>
void forward_as(const Tensor& q, at::ArrayRef<int64_t> structure, at::ArrayRef<double> numbers, Form form,
                const Tensor& out) {
  apply(
      chain_of<A>("forward_kinematics", structure, numbers), q, out, out.size(1) * out.size(2),
      [&](const auto& chain, const A* from, A* to, int64_t begin, int64_t end) {
        cpu::forward(chain, from, form, to, begin, end);
      },
      [&](const auto& chain, const A* from, A* to, int64_t rows, auto stream) {
#ifdef ROBOCACHE_CUDA
        cuda::forward(chain, from, form, to, rows, stream);
#endif
      });
}

template <class A>
void jacobian_as(const Tensor& q, at::ArrayRef<int64_t> structure, at::ArrayRef<double> numbers, bool body,
                 const Tensor& out) {
  apply(
      chain_of<A>("geometric_jacobian", structure, numbers), q, out, out.size(1) * 6 * q.size(1),
      [&](const auto& chain, const A* from, A* to, int64_t begin, int64_t end) {
        cpu::jacobian(chain, from, body, to, begin, end);
      },
      [&](const auto& chain, const A* from, A* to, int64_t rows, auto stream) {
#ifdef ROBOCACHE_CUDA
        cuda::jacobian(chain, from, body, to, rows, stream);
#endif
      });
}

Tensor forward_kinematics(const Tensor& coordinates, at::ArrayRef<int64_t> structure, at::ArrayRef<double> numbers,
                          int64_t form) {
  check("forward_kinematics", coordinates, structure);
  TORCH_CHECK_VALUE(0 <= form && form <= 2, "forward_kinematics: form ", form);
  const Tensor q = coordinates.contiguous();
  const int64_t width = kinematics::width_of(Form(form));
  const Tensor out = allocate({q.size(0), structure[2], width}, q.options());
  if (q.scalar_type() == at::kDouble) {
    forward_as<double>(q, structure, numbers, Form(form), out);
  } else {
    forward_as<float>(q, structure, numbers, Form(form), out);
  }
  return out;
}

Tensor geometric_jacobian(const Tensor& coordinates, at::ArrayRef<int64_t> structure, at::ArrayRef<double> numbers,
                          bool body) {
  check("geometric_jacobian", coordinates, structure);
  const Tensor q = coordinates.contiguous();
  const Tensor out = allocate({q.size(0), structure[2], 6, q.size(1)}, q.options());
  if (q.scalar_type() == at::kDouble) {
    jacobian_as<double>(q, structure, numbers, body, out);
  } else {
    jacobian_as<float>(q, structure, numbers, body, out);
  }
  return out;
}

}  // namespace
}  // namespace robocache

TORCH_LIBRARY_FRAGMENT(robocache, m) {
  m.def("forward_kinematics(Tensor q, int[] structure, float[] numbers, int form) -> Tensor");
  m.def("geometric_jacobian(Tensor q, int[] structure, float[] numbers, bool body) -> Tensor");
}

#define RC_KINEMATICS_KERNELS(m)                                  \
  m.impl("forward_kinematics", &robocache::forward_kinematics);   \
  m.impl("geometric_jacobian", &robocache::geometric_jacobian);

TORCH_LIBRARY_IMPL(robocache, CPU, m) { RC_KINEMATICS_KERNELS(m) }
#ifdef ROBOCACHE_CUDA
TORCH_LIBRARY_IMPL(robocache, CUDA, m) { RC_KINEMATICS_KERNELS(m) }
#endif
// Gradients are robocache/ops/kinematics.py's; asked of the operators themselves, torch says that there are none.
TORCH_LIBRARY_IMPL(robocache, Autograd, m) {
  for (const char* op : {"forward_kinematics", "geometric_jacobian"}) {
    m.impl(op, torch::autograd::autogradNotImplementedFallback());
  }
}
