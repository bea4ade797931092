// Python's objects as the decoder's functions take and give them: buffers, lists, the lock, errors.
#pragma once
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <cstdint>
#include <exception>
#include <new>
#include <vector>

namespace robocache::decode {

// A Python error is set.
struct Raised : std::exception {};

[[noreturn]] inline void refuse(PyObject* type, const char* text) {
  PyErr_SetString(type, text);
  throw Raised();
}

// A buffer of a Python object for as long as this lives.
class Buffer {
 public:
  Buffer(PyObject* object, bool writable, bool strided = false) {
    const int flags = (strided ? PyBUF_STRIDES : PyBUF_C_CONTIGUOUS) | (writable ? PyBUF_WRITABLE : 0);
    if (PyObject_GetBuffer(object, &view_, flags) != 0) throw Raised();
  }
  Buffer(Buffer&& other) noexcept : view_(other.view_) { other.view_.obj = nullptr; }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { PyBuffer_Release(&view_); }

  uint8_t* data() const { return static_cast<uint8_t*>(view_.buf); }
  int64_t nbytes() const { return view_.len; }
  const Py_buffer& view() const { return view_; }

  int64_t* integers() const {
    if (view_.itemsize != 8 || reinterpret_cast<uintptr_t>(view_.buf) % alignof(int64_t)) {
      refuse(PyExc_TypeError, "an array of int64 is right");
    }
    return static_cast<int64_t*>(view_.buf);
  }
  int64_t count() const { return view_.len / 8; }

 private:
  Py_buffer view_{};
};

// work() without the lock. What it throws is thrown with the lock held.
template <class Work> auto unlocked(const Work& work) {
  struct Unlock {
    PyThreadState* state = PyEval_SaveThread();
    ~Unlock() { PyEval_RestoreThread(state); }
  } unlock;
  return work();
}

template <PyObject* (*kFunction)(PyObject* const*)> constexpr auto kGuarded =
    [](PyObject*, PyObject* const* arguments, Py_ssize_t) -> PyObject* {
  try {
    return kFunction(arguments);
  } catch (const Raised&) {
    return nullptr;
  } catch (const std::bad_alloc&) {
    return PyErr_NoMemory();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
};

inline int64_t integer(PyObject* object) {
  const int64_t value = PyLong_AsLongLong(object);
  if (value == -1 && PyErr_Occurred()) throw Raised();
  return value;
}

// The items of a list or tuple, borrowed.
class Items {
 public:
  explicit Items(PyObject* object) : sequence_(PySequence_Fast(object, "a list is right")) {
    if (!sequence_) throw Raised();
  }
  Items(const Items&) = delete;
  Items& operator=(const Items&) = delete;
  ~Items() { Py_DECREF(sequence_); }
  Py_ssize_t size() const { return PySequence_Fast_GET_SIZE(sequence_); }
  PyObject* operator[](Py_ssize_t i) const { return PySequence_Fast_GET_ITEM(sequence_, i); }

 private:
  PyObject* sequence_;
};

// A new reference, let go of where something is thrown.
class Reference {
 public:
  explicit Reference(PyObject* object) : object_(object) {
    if (!object_) throw Raised();
  }
  Reference(const Reference&) = delete;
  Reference& operator=(const Reference&) = delete;
  ~Reference() { Py_XDECREF(object_); }
  PyObject* get() const { return object_; }
  PyObject* release() {
    PyObject* object = object_;
    object_ = nullptr;
    return object;
  }

 private:
  PyObject* object_;
};

inline PyObject* list_of(const std::vector<int64_t>& numbers) {
  Reference list(PyList_New(static_cast<Py_ssize_t>(numbers.size())));
  for (size_t i = 0; i < numbers.size(); ++i) {
    PyObject* number = PyLong_FromLongLong(numbers[i]);
    if (!number) throw Raised();
    PyList_SET_ITEM(list.get(), static_cast<Py_ssize_t>(i), number);
  }
  return list.release();
}

// The bytes of numbers, in the host's order.
template <class T> PyObject* bytes_of(const std::vector<T>& numbers) {
  const auto nbytes = static_cast<Py_ssize_t>(numbers.size() * sizeof(T));
  PyObject* bytes = PyBytes_FromStringAndSize(reinterpret_cast<const char*>(numbers.data()), nbytes);
  if (!bytes) throw Raised();
  return bytes;
}

}  // namespace robocache::decode
