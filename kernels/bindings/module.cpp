// robocache._C: loading it registers the operators (the libraries of the other files); it holds the short ways to them.
#include "bindings/python.h"
#include "cpu/isa.h"

namespace robocache {

void def_align(pybind11::module_& module);

}  // namespace robocache

TORCH_LIBRARY(robocache, m) {
  m.def("instruction_set() -> str", +[] { return std::string(robocache::cpu::isa_name()); });
}

PYBIND11_MODULE(_C, module) { robocache::def_align(module); }
