// The short way from Python to an operator: the same dispatch (dispatch modes, fake tensors, profilers see the call),
// but arguments converted one by one, where torch.ops parses them by the schema: 3 of the 5 us of a small call.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <pybind11/stl.h>
#include <torch/csrc/utils/pybind.h>

#include <string>
#include <variant>
#include <vector>

#include "bindings/common.h"

namespace robocache {

// What Python hands over for an operator's parameter of type T, and the parameter made of it.
template <class T> struct FromPython {
  using Held = std::decay_t<T>;
  static T pass(const Held& held) { return held; }
};
template <class T> struct FromPython<at::ArrayRef<T>> {
  using Held = std::vector<T>;
  static at::ArrayRef<T> pass(const Held& held) { return held; }
};
template <> struct FromPython<at::ArrayRef<at::Scalar>> {
  using Held = std::vector<std::variant<int64_t, double>>;
  static std::vector<at::Scalar> pass(const Held& held) {
    std::vector<at::Scalar> scalars;
    scalars.reserve(held.size());
    for (const auto& number : held) std::visit([&](auto value) { scalars.emplace_back(value); }, number);
    return scalars;
  }
};
template <> struct FromPython<const OptionalTensors&> {
  using Held = std::vector<std::optional<Tensor>>;
  static OptionalTensors pass(const Held& held) { return OptionalTensors(at::ArrayRef<std::optional<Tensor>>(held)); }
};

// robocache._C.NAME, which calls torch.ops.robocache.NAME; the last argument, a kernel of it, tells the types.
template <class Result, class... Parameters>
void def_operator(pybind11::module_& module, const char* name, Result (*)(Parameters...)) {
  const auto op = c10::Dispatcher::singleton()
                      .findSchemaOrThrow(("robocache::" + std::string(name)).c_str(), "")
                      .template typed<Result(Parameters...)>();
  module.def(
      name,
      [op](const typename FromPython<Parameters>::Held&... held) {
        return op.call(FromPython<Parameters>::pass(held)...);
      },
      pybind11::call_guard<pybind11::gil_scoped_release>());
}

}  // namespace robocache
