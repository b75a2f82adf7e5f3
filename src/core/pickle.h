#pragma once

#include <cstdint>
#include <deque>
#include <set>
#include <string>
#include <vector>

#include "core/mapped_file.h"

namespace tessera {

/// A value of a pickle, as far as it is plain data. A call is not carried out: what would be called, and with
/// what, is itself the value.
struct PickleValue {
  enum class Kind {
    kNone,
    kBool,
    kInt,
    kFloat,
    kString,
    kBytes,
    kTuple,
    kList,
    kDict,        ///< dict or OrderedDict: `items` holds key, value, key, value, …
    kGlobal,      ///< a Python name; `text` is "module name"
    kCall,        ///< `text` is the called global, `items` holds the tuple of its arguments
    kPersistent,  ///< `items` holds the one value by which the program knows an object outside the pickle
  };

  Kind kind = Kind::kNone;
  std::int64_t integer = 0;  ///< kBool, kInt
  double number = 0;         ///< kFloat
  std::string text;          ///< kString, kBytes, kGlobal, kCall
  std::vector<const PickleValue*> items;

  bool is(Kind expected) const { return kind == expected; }
  const char* kind_name() const;
};

/// Reads a pickle (Python's pickletools, the binary opcodes of protocols 2 to 5) and executes nothing of it:
/// no Python name is looked up, and no name is accepted but those that the caller allows.
/// collections.OrderedDict is known without being allowed, and its attributes are passed over. Values live as
/// long as this object and may refer to each other in circles: whoever follows them needs a limit of depth.
/// @throws Error naming the source where the pickle is damaged, uses what isn't known, or is too large
class Pickle {
 public:
  /// @param globals  the names that may occur, as "module name"
  Pickle(Bytes bytes, const std::set<std::string>& globals, const std::string& source);

  const PickleValue& root() const { return *root_; }

 private:
  std::deque<PickleValue> values_;
  const PickleValue* root_ = nullptr;
  friend class PickleMachine;
};

}  // namespace tessera
