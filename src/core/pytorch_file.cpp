#include "core/pytorch_file.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/file_kind.h"
#include "core/pickle.h"
#include "core/zip_file.h"

namespace tessera {

namespace {

namespace fs = std::filesystem;
using Kind = PickleValue::Kind;
using Items = std::vector<const PickleValue*>;

constexpr const char* kParameter = "torch._utils _rebuild_parameter";
constexpr const char* kTensor = "torch._utils _rebuild_tensor_v2";
constexpr const char* kTensorOfDtype =
    "torch._utils _rebuild_tensor_v3";  // for types that have no storage class
constexpr const char* kUntyped = "torch.storage UntypedStorage";
constexpr std::size_t kMaxDimensions = 64;

struct PickledDtype {
  at::ScalarType dtype;
  const char* storage;  ///< class of the storages of that type; empty: they are untyped
  const char* dtype_name;
};

constexpr std::array<PickledDtype, 17> kPickledDtypes{{
    {at::kDouble, "torch DoubleStorage", "torch float64"},
    {at::kFloat, "torch FloatStorage", "torch float32"},
    {at::kHalf, "torch HalfStorage", "torch float16"},
    {at::kBFloat16, "torch BFloat16Storage", "torch bfloat16"},
    {at::kLong, "torch LongStorage", "torch int64"},
    {at::kInt, "torch IntStorage", "torch int32"},
    {at::kShort, "torch ShortStorage", "torch int16"},
    {at::kChar, "torch CharStorage", "torch int8"},
    {at::kByte, "torch ByteStorage", "torch uint8"},
    {at::kBool, "torch BoolStorage", "torch bool"},
    {at::kComplexFloat, "torch ComplexFloatStorage", "torch complex64"},
    {at::kComplexDouble, "torch ComplexDoubleStorage", "torch complex128"},
    {at::kUInt16, "", "torch uint16"},
    {at::kUInt32, "", "torch uint32"},
    {at::kUInt64, "", "torch uint64"},
    {at::kFloat8_e4m3fn, "", "torch float8_e4m3fn"},
    {at::kFloat8_e5m2, "", "torch float8_e5m2"},
}};

const std::set<std::string>& known_globals() {
  static const std::set<std::string> globals = [] {
    std::set<std::string> names = {kParameter, kTensor, kTensorOfDtype, kUntyped};
    for (const PickledDtype& entry : kPickledDtypes) {
      if (*entry.storage != '\0') names.insert(entry.storage);
      names.insert(entry.dtype_name);
    }
    return names;
  }();
  return globals;
}

/// Bytes of a storage, and who keeps them.
struct Storage {
  std::byte* data = nullptr;
  std::uint64_t size = 0;
  std::shared_ptr<const void> owner;
  bool holds_bools = false;  ///< its bytes have been found to be 0 and 1
};

/// What a tensor is, before its storage is looked at.
struct View {
  at::ScalarType dtype;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> strides;
  std::uint64_t offset;  ///< in elements
};

bool is_tensor(const PickleValue& value) {
  return value.is(Kind::kCall) &&
         (value.text == kParameter || value.text == kTensor || value.text == kTensorOfDtype);
}

const Items& arguments(const PickleValue& call) { return call.items.front()->items; }

/// Whether a tensor's sizes are written as none; a number that was saved as a tensor.
bool is_scalar(const PickleValue& tensor) {
  const PickleValue* inner = &tensor;
  if (inner->text == kParameter && !arguments(*inner).empty()) inner = arguments(*inner).front();
  if (!is_tensor(*inner)) return false;
  const Items& given = arguments(*inner);
  return given.size() > 2 && given[2]->is(Kind::kTuple) && given[2]->items.empty();
}

class PytorchFile {
 public:
  explicit PytorchFile(const fs::path& path)
      : file_(path.string()), zip_(path), folder_(find_folder()), pickle_(read_pickle()) {}

  TensorMap tensors() {
    TensorMap result;
    const Items& items = state_dict().items;
    for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
      if (!is_tensor(*items[i + 1])) continue;
      if (!items[i]->is(Kind::kString)) {
        fail("{}: a tensor is named by {}, expected a string", file_, items[i]->kind_name());
      }
      const std::string& name = items[i]->text;
      if (!result.emplace(name, at::Tensor()).second) {
        fail("{}: tensor {} is there twice", file_, quoted(name));
      }
      result[name] = tensor(*items[i + 1], fmt::format("{}: tensor {}", file_, quoted(name)));
    }
    return result;
  }

 private:
  /// The folder in the archive that all its members are in; named after the file as it was first called.
  std::string find_folder() const {
    constexpr std::string_view kPickle = "/data.pkl";
    std::vector<std::string> folders;
    for (const auto& [name, member] : zip_.members()) {
      if (name.ends_with(kPickle) && name.find('/') == name.size() - kPickle.size()) {
        folders.push_back(name.substr(0, name.size() - kPickle.size() + 1));
      }
    }
    if (folders.size() != 1) {
      fail("{}: was not written by torch.save: it holds {} members FOLDER/data.pkl, expected one", file_,
           folders.size());
    }
    if (zip_.contains(folders.front() + "constants.pkl")) {
      fail("{}: is a TorchScript program; in Python, save its state_dict() with torch.save", file_);
    }
    return folders.front();
  }

  Pickle read_pickle() const {
    if (const std::string name = folder_ + "byteorder"; zip_.contains(name)) {
      const Bytes content = zip_.content(name);
      const std::string order(reinterpret_cast<const char*>(content.data()), content.size());
      if (order != "little") {
        fail("{}: was written with byte order {}, only 'little' is read; save it anew on such a machine",
             file_, quoted(order));
      }
    }
    return {zip_.content(folder_ + "data.pkl"), known_globals(), file_};
  }

  const PickleValue& state_dict() const {
    static const std::set<std::string> kUsual = {"model", "state_dict", "model_state_dict", "teacher"};
    const PickleValue& root = pickle_.root();
    if (!root.is(Kind::kDict)) {
      fail("{}: holds {}, expected a dict of tensors (in Python, torch.save(model.state_dict(), …))", file_,
           is_tensor(root) ? "a tensor" : root.kind_name());
    }
    bool holds_tensors = false;
    bool holds_only_numbers = true;
    std::vector<std::string> names;
    std::vector<const PickleValue*> choices;
    std::vector<const PickleValue*> usual;
    for (std::size_t i = 0; i + 1 < root.items.size(); i += 2) {
      const PickleValue& key = *root.items[i];
      const PickleValue& value = *root.items[i + 1];
      if (is_tensor(value)) {
        holds_tensors = true;
        holds_only_numbers = holds_only_numbers && is_scalar(value);
      } else if (value.is(Kind::kDict) && key.is(Kind::kString) && dict_has_tensors(value)) {
        names.push_back(quoted(key.text));
        choices.push_back(&value);
        if (kUsual.count(key.text) != 0) usual.push_back(&value);
      }
    }
    if (choices.empty()) {
      if (!holds_tensors) {
        fail("{}: holds no tensors, neither in its outermost dict nor in a dict in that", file_);
      }
      return root;
    }
    if (holds_only_numbers && usual.size() == 1) return *usual.front();
    if (holds_only_numbers && usual.empty() && choices.size() == 1) return *choices.front();
    names.resize(std::min<std::size_t>(names.size(), 20));
    fail(
        "{}: which tensors are the model's is not clear: {}there are dicts of tensors under {}; in Python, "
        "save the one that is meant alone",
        file_, holds_only_numbers ? "" : "the outermost dict holds tensors, and ", fmt::join(names, ", "));
  }

  static bool dict_has_tensors(const PickleValue& dict) {
    for (std::size_t i = 1; i < dict.items.size(); i += 2) {
      if (is_tensor(*dict.items[i])) return true;
    }
    return false;
  }

  at::Tensor tensor(const PickleValue& value, const std::string& where) {
    const Items& given = arguments(value);
    if (value.text != kParameter) return view(value, where);
    if (given.size() != 3 || !is_tensor(*given[0]) || given[0]->text == kParameter) {
      fail("{}: is no parameter as torch.save writes it", where);
    }
    return view(*given[0], where);
  }

  /// (storage, offset, sizes, strides, requires_grad, hooks[, dtype][, metadata])
  at::Tensor view(const PickleValue& call, const std::string& where) {
    const bool has_dtype = call.text == kTensorOfDtype;
    const std::size_t usual = has_dtype ? 7 : 6;
    const Items& given = arguments(call);
    if (given.size() != usual && given.size() != usual + 1) {
      fail("{}: is described by {} values, expected {} or {}", where, given.size(), usual, usual + 1);
    }
    if (given.size() > usual && !given[usual]->is(Kind::kNone) &&
        !(given[usual]->is(Kind::kDict) && given[usual]->items.empty())) {
      fail("{}: has metadata (a conjugated or negated tensor), which is not read; save a copy of it", where);
    }
    const Items& id = storage_id(*given[0], where);
    const at::ScalarType dtype =
        has_dtype ? dtype_named(*given[6], where) : storage_dtype(id[1]->text, where);
    const std::int64_t count = whole_number(*id[4], where, "the storage's length");
    const std::uint64_t element = has_dtype ? 1 : c10::elementSize(dtype);
    Storage& storage = find_storage(id[2]->text, where);
    if (static_cast<std::uint64_t>(count) > storage.size / element ||
        static_cast<std::uint64_t>(count) * element != storage.size) {
      fail("{}: its storage {} has {} bytes, {} elements of {} were expected", where, quoted(id[2]->text),
           storage.size, count, has_dtype ? "one byte" : c10::toString(dtype));
    }
    View view{dtype, numbers(*given[2], where, "sizes"), numbers(*given[3], where, "strides"),
              static_cast<std::uint64_t>(whole_number(*given[1], where, "the offset"))};
    return make_view(storage, view, where);
  }

  /// ("storage", class, key, device, length)
  const Items& storage_id(const PickleValue& value, const std::string& where) const {
    if (!value.is(Kind::kPersistent) || !value.items.front()->is(Kind::kTuple)) {
      fail("{}: lies in {}, expected a storage", where, value.kind_name());
    }
    const Items& id = value.items.front()->items;
    const bool sound = id.size() == 5 && id[0]->is(Kind::kString) && id[0]->text == "storage" &&
                       id[1]->is(Kind::kGlobal) && id[2]->is(Kind::kString);
    if (!sound) fail("{}: its storage is not described as torch.save does it", where);
    return id;
  }

  static at::ScalarType storage_dtype(const std::string& name, const std::string& where) {
    for (const PickledDtype& entry : kPickledDtypes) {
      if (name == entry.storage) return entry.dtype;
    }
    fail("{}: {} is no storage with a type", where, quoted(name));
  }

  static at::ScalarType dtype_named(const PickleValue& value, const std::string& where) {
    for (const PickledDtype& entry : kPickledDtypes) {
      if (value.is(Kind::kGlobal) && value.text == entry.dtype_name) return entry.dtype;
    }
    fail("{}: its dtype is {} {}, which is none", where, value.kind_name(), quoted(value.text));
  }

  static std::int64_t whole_number(const PickleValue& value, const std::string& where, const char* what) {
    if (!value.is(Kind::kInt) || value.integer < 0) {
      fail("{}: {} has to be a whole number from 0, found {} {}", where, what, value.kind_name(),
           value.integer);
    }
    return value.integer;
  }

  static std::vector<std::int64_t> numbers(const PickleValue& value, const std::string& where,
                                           const char* what) {
    if (!value.is(Kind::kTuple) || value.items.size() > kMaxDimensions) {
      fail("{}: its {} have to be a tuple of at most {} numbers", where, what, kMaxDimensions);
    }
    std::vector<std::int64_t> result;
    for (const PickleValue* item : value.items) result.push_back(whole_number(*item, where, what));
    return result;
  }

  Storage& find_storage(const std::string& key, const std::string& where) {
    const auto found = storages_.find(key);
    if (found != storages_.end()) return found->second;
    const std::string name = folder_ + "data/" + key;
    if (!zip_.contains(name)) fail("{}: its storage {} is missing", where, quoted(name));
    const Bytes content = zip_.content(name);
    return storages_[key] = {const_cast<std::byte*>(content.data()), content.size(), zip_.file(), false};
  }

  static at::Tensor make_view(Storage& storage, const View& view, const std::string& where) {
    const std::uint64_t element = c10::elementSize(view.dtype);
    const std::uint64_t capacity = storage.size / element;
    const bool empty = check_extent(view, capacity, where);
    const auto options = at::TensorOptions().dtype(view.dtype);
    if (empty) return at::empty(view.sizes, options);
    if (reinterpret_cast<std::uintptr_t>(storage.data) % element != 0) align(storage);
    if (view.dtype == at::kBool) check_bools(storage, where);
    return at::from_blob(
        storage.data + view.offset * element, view.sizes, view.strides, [owner = storage.owner](void*) {},
        options);
  }

  /// That every element lies in the storage. The strides of an empty tensor are products of its other sizes,
  /// so these may not overflow either.
  static bool check_extent(const View& view, std::uint64_t capacity, const std::string& where) {
    constexpr std::uint64_t kLimit = std::numeric_limits<std::int64_t>::max() / 16;
    if (view.strides.size() != view.sizes.size()) {
      fail("{}: has {} sizes and {} strides", where, view.sizes.size(), view.strides.size());
    }
    std::uint64_t elements = 1;
    bool empty = false;
    for (const std::int64_t size : view.sizes) {
      empty = empty || size == 0;
      const auto factor = static_cast<std::uint64_t>(std::max<std::int64_t>(size, 1));
      if (factor > kLimit / elements) {
        fail("{}: shape [{}] has too many elements", where, fmt::join(view.sizes, ", "));
      }
      elements *= factor;
    }
    if (empty) return true;
    if (elements > capacity) {
      fail(
          "{}: shape [{}] has more elements than its storage ({}); an expanded tensor has to be saved as a "
          "copy",
          where, fmt::join(view.sizes, ", "), capacity);
    }
    std::uint64_t last = view.offset;
    for (std::size_t i = 0; i < view.sizes.size() && last < capacity; ++i) {
      const auto steps = static_cast<std::uint64_t>(view.sizes[i] - 1);
      const auto stride = static_cast<std::uint64_t>(view.strides[i]);
      last = steps != 0 && stride > capacity / steps ? capacity : last + steps * stride;
    }
    if (last >= capacity) {
      fail("{}: sizes [{}] and strides [{}] from offset {} reach past the {} elements of its storage", where,
           fmt::join(view.sizes, ", "), fmt::join(view.strides, ", "), view.offset, capacity);
    }
    return false;
  }

  /// torch.save puts storages at multiples of 64; other writers of the format need not.
  static void align(Storage& storage) {
    auto copy = std::make_shared<at::Tensor>(
        at::empty({static_cast<std::int64_t>(storage.size)}, at::TensorOptions().dtype(at::kByte)));
    std::copy_n(storage.data, storage.size, static_cast<std::byte*>(copy->mutable_data_ptr()));
    storage.data = static_cast<std::byte*>(copy->mutable_data_ptr());
    storage.owner = std::move(copy);
  }

  /// A bool byte other than 0 and 1 would be undefined behaviour wherever the tensor is read.
  static void check_bools(Storage& storage, const std::string& where) {
    if (storage.holds_bools) return;
    if (std::any_of(storage.data, storage.data + storage.size,
                    [](std::byte b) { return b > std::byte{1}; })) {
      fail("{}: its storage holds a byte that is neither true nor false", where);
    }
    storage.holds_bools = true;
  }

  std::string file_;
  ZipFile zip_;
  std::string folder_;
  Pickle pickle_;
  std::map<std::string, Storage> storages_;
};

/// What a file without zip's first bytes is, where it is one of torch's.
void check_kind(const fs::path& path) {
  const MappedFile file(path);
  const auto* begin = reinterpret_cast<const char*>(file.bytes().data());
  const std::string_view content(begin, file.bytes().size());
  constexpr std::string_view kLegacy = "\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
  if (content.starts_with(kLegacy) || (content.size() > 262 && content.substr(257, 5) == "ustar")) {
    fail(
        "{}: was written in torch.save's format from before torch 1.6; convert it with a current torch, in "
        "Python: torch.save(torch.load(\"{}\", map_location=\"cpu\"), \"converted.pth\")",
        path.string(), path.filename().string());
  }
  if (!content.starts_with("PK")) {
    const std::string found = other_kind(content);
    fail("{}: was not written by torch.save: it {}", path.string(),
         found.empty() ? "begins like no zip archive" : "is " + found);
  }
}

}  // namespace

TensorMap read_pytorch_file(const fs::path& path) {
  check_kind(path);
  return PytorchFile(path).tensors();
}

}  // namespace tessera
