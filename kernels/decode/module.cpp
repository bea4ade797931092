// robocache._decode: the decoder for Python, without torch. Arguments are buffers of any kind (numpy arrays, as a
// rule); all work is done without the interpreter's lock. robocache/_decode.pyi says what each function takes.
#include "decode/python.h"  // before any other, as Python asks

#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "decode/channel.h"
#include "decode/columns.h"
#include "decode/crc32.h"
#include "decode/program.h"
#include "decode/records.h"
#include "decode/spans.h"
#include "decode/ulog.h"

namespace robocache::decode {
namespace {

// The messages that (buffer, start, size) tell of, with the buffers that hold them.
struct Window {
  explicit Window(PyObject* const* arguments)
      : buffer(arguments[0], false), start(arguments[1], false), size(arguments[2], false) {
    messages = {buffer.data(), buffer.nbytes(), start.integers(), size.integers(), start.count()};
    if (size.count() != messages.count) refuse(PyExc_ValueError, "as many sizes as offsets are right");
  }
  Buffer buffer, start, size;
  Messages messages{};
};

// ---- the functions --------------------------------------------------------------------------------------------------

PyObject* py_crc32(PyObject* const* arguments) {
  const Buffer data(arguments[0], false);
  const uint32_t before = static_cast<uint32_t>(integer(arguments[1]));
  const uint32_t after =
      unlocked([&] { return crc32(before, data.data(), static_cast<size_t>(data.nbytes())); });
  return PyLong_FromUnsignedLong(after);
}

PyObject* py_scan(PyObject* const* arguments) {
  const Buffer buffer(arguments[0], false);
  const int64_t start = integer(arguments[1]), end = integer(arguments[2]);
  if (start < 0 || start > end || end > buffer.nbytes()) refuse(PyExc_ValueError, "a range of the buffer is right");
  const Items ids(arguments[3]);
  std::vector<uint16_t> channels;
  for (Py_ssize_t k = 0; k < ids.size(); ++k) {
    const int64_t id = integer(ids[k]);
    if (id < 0 || id > UINT16_MAX) refuse(PyExc_ValueError, "channel ids of 16 bits are right");
    channels.push_back(static_cast<uint16_t>(id));
  }
  const Scan found = unlocked([&] { return scan(buffer.data(), start, end, channels); });
  Reference all(PyList_New(static_cast<Py_ssize_t>(found.offsets.size())));
  for (size_t k = 0; k < found.offsets.size(); ++k) {
    PyList_SET_ITEM(all.get(), static_cast<Py_ssize_t>(k), bytes_of(found.offsets[k]));
  }
  return Py_BuildValue("OLL", all.get(), static_cast<long long>(found.chunk), static_cast<long long>(found.stop));
}

// What an index says of a chunk's messages, uint64 [n].
Entries entries_of(const Buffer& buffer, int64_t begin, int64_t end) {
  const Py_buffer& view = buffer.view();
  if (view.ndim != 1 || view.itemsize != 8) refuse(PyExc_TypeError, "arrays of uint64 [n] are right");
  return {static_cast<const uint8_t*>(view.buf), view.strides[0], view.shape[0], begin, end};
}

PyObject* py_locate(PyObject* const* arguments) {
  const Buffer buffer(arguments[0], false);
  const int64_t channel = integer(arguments[1]);
  const Items given(arguments[2]);
  const Buffer limits(arguments[3], false), out(arguments[4], true);
  if (limits.count() != 3 * given.size()) refuse(PyExc_ValueError, "count, begin and end for each piece are right");
  std::vector<Buffer> held;
  std::vector<Entries> pieces;
  held.reserve(static_cast<size_t>(given.size()));
  int64_t total = 0;
  for (Py_ssize_t k = 0; k < given.size(); ++k) {
    held.emplace_back(given[k], false, true);
    const int64_t* limit = limits.integers() + 3 * k;
    pieces.push_back(entries_of(held.back(), limit[1], limit[2]));
    if (limit[0] != pieces.back().count) refuse(PyExc_ValueError, "a count is not that of its piece");
    total += limit[0];
  }
  if (out.count() != 4 * total) refuse(PyExc_ValueError, "four numbers for each entry are right");
  if (channel < 0 || channel > UINT16_MAX) Py_RETURN_FALSE;
  int64_t* numbers = out.integers();
  const Located located{numbers, numbers + total, numbers + 2 * total, numbers + 3 * total};
  const bool good = unlocked([&] {
    return locate(buffer.data(), buffer.nbytes(), static_cast<uint16_t>(channel), pieces, located);
  });
  return PyBool_FromLong(good);
}

// A program of (code, texts, most, encapsulation, aligned, nul), with the buffers that hold it.
struct Given {
  explicit Given(PyObject* tuple) : items(tuple), code(item(0), false), texts(item(1), false) {
    program = {code.integers(), code.count(), texts.data(), texts.nbytes(), integer(item(2)),
               {integer(item(3)), integer(item(4)) != 0, integer(item(5)) != 0}};
  }
  PyObject* item(Py_ssize_t i) const {
    if (items.size() != 6) refuse(PyExc_ValueError, "a program of six parts is right");
    return items[i];
  }
  Items items;
  Buffer code, texts;
  Program program{};
};

PyObject* py_measure(PyObject* const* arguments) {
  const Window window(arguments);
  const Given given(arguments[3]);
  std::vector<int64_t> counts(static_cast<size_t>(integer(arguments[4])), 0);
  std::vector<Slot> none;
  const bool good = unlocked([&] { return measure(given.program, window.messages, counts); });
  if (!good) Py_RETURN_NONE;
  return list_of(counts);
}

// An array that a program fills, a row the last axis of it.
Slot slot_of(const Buffer& buffer) {
  const Py_buffer& view = buffer.view();
  const int64_t numbers = view.ndim > 1 ? view.shape[view.ndim - 1] : 1;
  return {buffer.data(), buffer.nbytes(), numbers * view.itemsize};
}

// A checked program with all that it needs: messages, counts, and slots for what it takes.
struct Job {
  explicit Job(PyObject* const* arguments) : window(arguments), given(arguments[3]) {
    const Items measured(arguments[4]), outputs(arguments[5]);
    for (Py_ssize_t k = 0; k < measured.size(); ++k) counts.push_back(integer(measured[k]));
    held.reserve(static_cast<size_t>(outputs.size()));
    for (Py_ssize_t k = 0; k < outputs.size(); ++k) {
      held.emplace_back(outputs[k], true);
      slots.push_back(slot_of(held.back()));
    }
    if (!check(given.program, window.messages.count, counts, slots)) refuse(PyExc_ValueError, "no such program");
  }
  Window window;
  Given given;
  std::vector<int64_t> counts;
  std::vector<Buffer> held;
  std::vector<Slot> slots;
};

PyObject* py_run(PyObject* const* arguments) {
  const Job job(arguments);
  const Found found = unlocked([&] { return run(job.given.program, job.window.messages, job.counts, job.slots); });
  if (found.order == kRefused) Py_RETURN_NONE;
  const Reference differs(list_of({found.differs.begin(), found.differs.end()}));
  const Reference firsts(PyList_New(static_cast<Py_ssize_t>(found.firsts.size())));
  for (size_t k = 0; k < found.firsts.size(); ++k) {
    PyList_SET_ITEM(firsts.get(), static_cast<Py_ssize_t>(k), list_of(found.firsts[k]));
  }
  return Py_BuildValue("LOO", static_cast<long long>(found.order), differs.get(), firsts.get());
}

PyObject* py_lay_out(PyObject* const* arguments) {
  const Job job(arguments);
  Laid laid;
  if (!lay_out(job.given.program, job.window.messages, job.counts, job.slots, laid)) Py_RETURN_NONE;
  const Reference same(list_of(laid.same)), copies(list_of(laid.copies)), times(list_of(laid.times)),
      spans(list_of(laid.spans));
  return Py_BuildValue("LLOOOO", static_cast<long long>(laid.order), static_cast<long long>(laid.nbytes), same.get(),
                       copies.get(), times.get(), spans.get());
}

// A channel, with the buffers that hold its program and its arrays.
struct Opened {
  explicit Opened(PyObject* const* arguments) : given(arguments[1]), times(arguments[4], true) {
    const int64_t id = integer(arguments[0]);
    if (id < 0 || id > UINT16_MAX) refuse(PyExc_ValueError, "channel ids of 16 bits are right");
    const Items measured(arguments[2]), outputs(arguments[3]);
    std::vector<int64_t> counts;
    std::vector<Slot> slots;
    for (Py_ssize_t k = 0; k < measured.size(); ++k) counts.push_back(integer(measured[k]));
    held.reserve(static_cast<size_t>(outputs.size()));
    for (Py_ssize_t k = 0; k < outputs.size(); ++k) {
      if (outputs[k] == Py_None) {
        slots.push_back({nullptr, INT64_MAX, 0});
      } else {
        held.emplace_back(outputs[k], true);
        slots.push_back(slot_of(held.back()));
      }
    }
    int64_t* numbers = times.integers();
    channel = std::make_unique<Channel>(static_cast<uint16_t>(id), given.program, std::move(counts), std::move(slots),
                                        numbers, times.count() / 2);
    if (!channel->good()) refuse(PyExc_ValueError, "no program for chunks");
  }
  Given given;
  std::vector<Buffer> held;
  Buffer times;
  std::unique_ptr<Channel> channel;
};

// What Python holds between calls, by the name of its kind.
template <class T> constexpr const char* kHeld = nullptr;
template <> constexpr const char* kHeld<Opened> = "robocache.channel";
template <> constexpr const char* kHeld<UlogWalk> = "robocache.ulog";

template <class T> PyObject* held(std::unique_ptr<T> made) {
  PyObject* capsule = PyCapsule_New(made.get(), kHeld<T>, [](PyObject* object) {
    delete static_cast<T*>(PyCapsule_GetPointer(object, kHeld<T>));
  });
  if (!capsule) throw Raised();
  made.release();
  return capsule;
}

template <class T> T& within(PyObject* capsule) {
  void* found = PyCapsule_GetPointer(capsule, kHeld<T>);
  if (!found) throw Raised();
  return *static_cast<T*>(found);
}

PyObject* py_open_channel(PyObject* const* arguments) { return held(std::make_unique<Opened>(arguments)); }

PyObject* py_take_chunk(PyObject* const* arguments) {
  const Buffer buffer(arguments[0], false);
  const Items channels(arguments[1]), given(arguments[2]);
  if (channels.size() != given.size()) refuse(PyExc_ValueError, "entries for each channel are right");
  struct Wanted {
    Channel* channel;
    Entries entries;
    bool taken;
  };
  std::vector<Buffer> held;
  std::vector<Wanted> all;
  held.reserve(static_cast<size_t>(given.size()));
  for (Py_ssize_t k = 0; k < given.size(); ++k) {
    held.emplace_back(given[k], false, true);
    all.push_back({within<Opened>(channels[k]).channel.get(), entries_of(held.back(), 0, buffer.nbytes()), false});
  }
  unlocked([&] {
    for (Wanted& one : all) one.taken = one.channel->take(buffer.data(), buffer.nbytes(), one.entries);
  });
  Reference found(PyList_New(static_cast<Py_ssize_t>(all.size())));
  for (size_t k = 0; k < all.size(); ++k) {
    PyList_SET_ITEM(found.get(), static_cast<Py_ssize_t>(k), PyBool_FromLong(all[k].taken));
  }
  return found.release();
}

PyObject* py_taken(PyObject* const* arguments) {
  const Channel& channel = *within<Opened>(arguments[0]).channel;
  const auto texts = channel.texts();
  Reference all(PyList_New(static_cast<Py_ssize_t>(texts.size())));
  for (size_t k = 0; k < texts.size(); ++k) {
    Reference some(PyList_New(static_cast<Py_ssize_t>(texts[k].size())));
    for (size_t i = 0; i < texts[k].size(); ++i) {
      const std::string_view text = texts[k][i];
      PyObject* bytes = PyBytes_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
      if (!bytes) throw Raised();
      PyList_SET_ITEM(some.get(), static_cast<Py_ssize_t>(i), bytes);
    }
    PyList_SET_ITEM(all.get(), static_cast<Py_ssize_t>(k), some.release());
  }
  return Py_BuildValue("LLO", static_cast<long long>(channel.rows()), static_cast<long long>(channel.order()),
                       all.get());
}

PyObject* py_open_ulog(PyObject* const* arguments) {
  const Items given(arguments[0]);
  std::vector<int64_t> ends;
  for (Py_ssize_t k = 0; k < given.size(); ++k) {
    const int64_t end = integer(given[k]);
    if (end < (k ? ends.back() : 0)) refuse(PyExc_ValueError, "ends in order are right");
    ends.push_back(end);
  }
  if (ends.empty()) refuse(PyExc_ValueError, "the end of the file is right");
  return held(std::make_unique<UlogWalk>(std::move(ends)));
}

// A window of a log: (walk, window, base).
struct UlogWindow {
  explicit UlogWindow(PyObject* const* arguments)
      : walk(within<UlogWalk>(arguments[0])), bytes(arguments[1], false), base(integer(arguments[2])) {
    if (base < 0) refuse(PyExc_ValueError, "a place in the file is right");
  }
  UlogWalk& walk;
  Buffer bytes;
  int64_t base;
};

PyObject* py_step_ulog(PyObject* const* arguments) {
  const UlogWindow window(arguments);
  const auto found = unlocked([&] { return window.walk.step(window.bytes.data(), window.bytes.nbytes(), window.base); });
  const Reference numbers(list_of(found.numbers));
  return Py_BuildValue("LOO", static_cast<long long>(found.stop), found.unknown ? Py_True : Py_False, numbers.get());
}

PyObject* py_walked_ulog(PyObject* const* arguments) {
  const UlogWalk& walk = within<UlogWalk>(arguments[0]);
  const Reference counts(list_of(walk.counts())), told(bytes_of(walk.told()));
  return Py_BuildValue("OO", counts.get(), told.get());
}

PyObject* py_find_ulog(PyObject* const* arguments) {
  const UlogWindow window(arguments);
  const Items given(arguments[3]);
  std::vector<int64_t> numbers;
  const auto most = static_cast<int64_t>(window.walk.counts().size());
  for (Py_ssize_t k = 0; k < given.size(); ++k) {
    numbers.push_back(integer(given[k]));
    if (numbers.back() < 0 || numbers.back() >= most) refuse(PyExc_ValueError, "no such subscription");
  }
  const auto found = unlocked(
      [&] { return window.walk.find(window.bytes.data(), window.bytes.nbytes(), window.base, numbers); });
  Reference all(PyList_New(static_cast<Py_ssize_t>(found.size())));
  for (size_t k = 0; k < found.size(); ++k) {
    const Reference starts(bytes_of(found[k].start)), sizes(bytes_of(found[k].size));
    PyObject* item = PyTuple_Pack(2, starts.get(), sizes.get());
    if (!item) throw Raised();
    PyList_SET_ITEM(all.get(), static_cast<Py_ssize_t>(k), item);
  }
  return all.release();
}

PyObject* py_concatenate(PyObject* const* arguments) {
  const Window window(arguments);
  const int64_t item = integer(arguments[3]);
  const Buffer out(arguments[4], true);
  return PyBool_FromLong(unlocked([&] { return concatenate(window.messages, item, out.data(), out.nbytes()); }));
}

PyObject* py_distinct(PyObject* const* arguments) {
  const Window window(arguments);
  const Buffer which(arguments[3], true);
  if (which.count() != window.messages.count) refuse(PyExc_ValueError, "a code for each span is right");
  int64_t* codes = which.integers();
  Contents contents;
  const bool good = unlocked([&] { return distinct(window.messages, codes, contents); });
  if (!good) Py_RETURN_NONE;
  return list_of(contents.first);
}

PyObject* py_order(PyObject* const* arguments) {
  const Buffer times(arguments[0], false);
  const int64_t* numbers = times.integers();
  const Order found = unlocked([&] { return order(numbers, times.count()); });
  return Py_BuildValue("OL", found.rising ? Py_True : Py_False, static_cast<long long>(found.repeats));
}

PyObject* py_steps(PyObject* const* arguments) {
  const Buffer times(arguments[0], false);
  const int64_t* numbers = times.integers();
  if (times.count() < 2) refuse(PyExc_ValueError, "two times at least are right");
  const Steps found = unlocked([&] { return steps(numbers, times.count()); });
  return Py_BuildValue("LLL", static_cast<long long>(found.low), static_cast<long long>(found.high),
                       static_cast<long long>(found.widest));
}

PyObject* py_wider(PyObject* const* arguments) {
  const Buffer times(arguments[0], false);
  const int64_t* numbers = times.integers();
  const int64_t limit = integer(arguments[1]);
  return PyLong_FromLongLong(unlocked([&] { return wider(numbers, times.count(), limit); }));
}

// work(view, numbers) of a table [n, k] of float32 or float64.
template <class Work> void of_columns(PyObject* object, const Work& work) {
  const Buffer table(object, false, true);
  const Py_buffer& view = table.view();
  if (view.ndim != 2 || !PyBuffer_IsContiguous(&view, 'C')) refuse(PyExc_TypeError, "a table [n, k] is right");
  if (view.itemsize != 8 && view.itemsize != 4) refuse(PyExc_TypeError, "float32 or float64 is right");
  if (reinterpret_cast<uintptr_t>(view.buf) % static_cast<size_t>(view.itemsize)) {
    refuse(PyExc_TypeError, "aligned numbers are right");
  }
  if (view.itemsize == 8) {
    work(view, reinterpret_cast<const double*>(table.data()));
  } else {
    work(view, reinterpret_cast<const float*>(table.data()));
  }
}

// Room for a number of a type for each column of a table.
template <class T> T* of_each(const Buffer& out, const Py_buffer& table) {
  if (out.nbytes() != table.shape[1] * static_cast<int64_t>(sizeof(T))) {
    refuse(PyExc_ValueError, "a number for each column is right");
  }
  return reinterpret_cast<T*>(out.data());
}

PyObject* py_extremes(PyObject* const* arguments) {
  const Buffer low(arguments[1], true), high(arguments[2], true);
  of_columns(arguments[0], [&](const Py_buffer& view, const auto* table) {
    using Number = std::remove_const_t<std::remove_pointer_t<decltype(table)>>;
    Number* const least = of_each<Number>(low, view);
    Number* const most = of_each<Number>(high, view);
    unlocked([&] { extremes(table, view.shape[0], view.shape[1], least, most); });
  });
  Py_RETURN_NONE;
}

PyObject* py_ways(PyObject* const* arguments) {
  const Buffer out(arguments[1], true);
  of_columns(arguments[0], [&](const Py_buffer& view, const auto* table) {
    if (view.shape[0] < 1) refuse(PyExc_ValueError, "one row at least is right");
    double* const way = of_each<double>(out, view);
    unlocked([&] { ways(table, view.shape[0], view.shape[1], way); });
  });
  Py_RETURN_NONE;
}

// The number of arguments is checked here, once for all.
template <PyObject* (*kFunction)(PyObject* const*), Py_ssize_t kArguments>
PyObject* entry(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (count != kArguments) {
    return PyErr_Format(PyExc_TypeError, "%zd arguments are right, not %zd", kArguments, count);
  }
  return kGuarded<kFunction>(self, arguments, count);
}

template <PyObject* (*kFunction)(PyObject* const*), Py_ssize_t kArguments>
PyMethodDef method(const char* name) {
  PyMethodDef definition{};
  definition.ml_name = name;
  definition.ml_meth = reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&entry<kFunction, kArguments>));
  definition.ml_flags = METH_FASTCALL;
  return definition;
}

PyMethodDef methods[] = {
    method<py_crc32, 2>("crc32"),   method<py_scan, 4>("scan"),
    method<py_locate, 5>("locate"), method<py_measure, 5>("measure"),
    method<py_run, 6>("run"),       method<py_lay_out, 6>("lay_out"),
    method<py_open_channel, 5>("open_channel"), method<py_take_chunk, 3>("take_chunk"),
    method<py_taken, 1>("taken"),
    method<py_concatenate, 5>("concatenate"), method<py_distinct, 4>("distinct"),
    method<py_order, 1>("order"),   method<py_steps, 1>("steps"),
    method<py_wider, 2>("wider"),   method<py_extremes, 3>("extremes"),
    method<py_ways, 2>("ways"),     method<py_open_ulog, 1>("open_ulog"),
    method<py_step_ulog, 3>("step_ulog"), method<py_find_ulog, 4>("find_ulog"),
    method<py_walked_ulog, 1>("walked_ulog"),
    PyMethodDef{},
};

PyModuleDef module = [] {
  PyModuleDef definition{PyModuleDef_HEAD_INIT, "robocache._decode", nullptr, -1, methods, nullptr, nullptr, nullptr,
                         nullptr};
  return definition;
}();

}  // namespace
}  // namespace robocache::decode

PyMODINIT_FUNC PyInit__decode() {
  PyObject* made = PyModule_Create(&robocache::decode::module);
  if (made && PyModule_AddObjectRef(made, "has_crc32", robocache::decode::has_crc32() ? Py_True : Py_False) != 0) {
    Py_DECREF(made);
    return nullptr;
  }
  return made;
}
