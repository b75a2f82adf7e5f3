#include "core/pickle.h"

#include <bit>
#include <unordered_map>
#include <utility>

#include "core/error.h"

namespace tessera {

namespace {

using Kind = PickleValue::Kind;

constexpr std::size_t kMaxBytes = std::size_t{64} << 20;  // a state dict takes 200 bytes a tensor
constexpr std::size_t kMaxValues = std::size_t{4} << 20;  // each is a hundred bytes of memory
constexpr const char* kOrderedDict = "collections OrderedDict";

enum Opcode : unsigned char {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersid = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kDict = 'd',
  kAppends = 'e',
  kBinGet = 'h',
  kLongBinGet = 'j',
  kList = 'l',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyTuple = ')',
  kEmptyList = ']',
  kEmptyDict = '}',
  kBinFloat = 'G',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinBytes8 = 0x8e,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

}  // namespace

const char* PickleValue::kind_name() const {
  switch (kind) {
    case Kind::kNone:
      return "None";
    case Kind::kBool:
      return "a bool";
    case Kind::kInt:
      return "an int";
    case Kind::kFloat:
      return "a float";
    case Kind::kString:
      return "a string";
    case Kind::kBytes:
      return "bytes";
    case Kind::kTuple:
      return "a tuple";
    case Kind::kList:
      return "a list";
    case Kind::kDict:
      return "a dict";
    case Kind::kGlobal:
      return "a class or function";
    case Kind::kCall:
      return "an object";
    case Kind::kPersistent:
      return "a storage";
  }
  return "something unknown";
}

/// The stack machine that a pickle is a program for.
class PickleMachine {
 public:
  PickleMachine(Pickle& pickle, Bytes bytes, const std::set<std::string>& globals, const std::string& source)
      : values_(pickle.values_), bytes_(bytes), globals_(globals), source_(source) {}

  const PickleValue* run() {
    if (bytes_.size() > kMaxBytes) {
      fail("{}: the pickle has {} bytes, at most {} are read", source_, bytes_.size(), kMaxBytes);
    }
    while (true) {
      opcode_ = static_cast<unsigned char>(number(1));
      if (opcode_ == kStop) break;
      step();
    }
    PickleValue* root = pop();
    if (at_ != bytes_.size()) damaged("goes on after its end");
    return root;
  }

 private:
  [[noreturn]] void damaged(const std::string& what) const {
    fail("{}: the pickle is damaged: it {} (byte {} of {})", source_, what, at_, bytes_.size());
  }

  Bytes take(std::uint64_t size) {
    if (size > bytes_.size() - at_) damaged("is cut off");
    const Bytes taken = bytes_.subspan(at_, size);
    at_ += size;
    return taken;
  }

  std::uint64_t number(unsigned size) {
    const Bytes taken = take(size);
    std::uint64_t value = 0;
    for (unsigned i = size; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(taken[i]);
    return value;
  }

  std::string string(std::uint64_t size) {
    const Bytes taken = take(size);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }

  std::string line() {
    std::string text;
    for (char c = static_cast<char>(number(1)); c != '\n'; c = static_cast<char>(number(1)))
      text.push_back(c);
    return text;
  }

  PickleValue& push(Kind kind) {
    if (values_.size() == kMaxValues) fail("{}: the pickle holds more than {} values", source_, kMaxValues);
    stack_.push_back(&values_.emplace_back());
    stack_.back()->kind = kind;
    return *stack_.back();
  }

  void push_text(Kind kind, std::uint64_t size) { push(kind).text = string(size); }
  void push_int(std::int64_t value) { push(Kind::kInt).integer = value; }

  void push_long(std::uint64_t size) {
    const Bytes taken = take(size);
    if (size > 8) damaged(fmt::format("holds an integer of {} bytes, at most 8 are read", size));
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i) value |= std::to_integer<std::uint64_t>(taken[i]) << (8 * i);
    const bool negative = size > 0 && (std::to_integer<unsigned>(taken[size - 1]) & 0x80) != 0;
    if (negative && size < 8) value |= ~std::uint64_t{0} << (8 * size);
    push_int(static_cast<std::int64_t>(value));
  }

  void push_float() {
    std::uint64_t bits = 0;
    for (const std::byte byte : take(8)) bits = bits << 8 | std::to_integer<std::uint64_t>(byte);
    push(Kind::kFloat).number = std::bit_cast<double>(bits);
  }

  std::size_t bottom() const { return marks_.empty() ? 0 : marks_.back(); }

  PickleValue* pop() {
    if (stack_.size() <= bottom()) damaged("takes a value where there is none");
    PickleValue* value = stack_.back();
    stack_.pop_back();
    return value;
  }

  PickleValue* top() const {
    if (stack_.size() <= bottom()) damaged("takes a value where there is none");
    return stack_.back();
  }

  /// What lies above the last mark.
  std::vector<const PickleValue*> pop_marked() {
    if (marks_.empty()) damaged("takes a mark where there is none");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<const PickleValue*> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
  }

  std::vector<const PickleValue*> pop_last(std::size_t count) {
    std::vector<const PickleValue*> items(count);
    for (std::size_t i = count; i-- > 0;) items[i] = pop();
    return items;
  }

  void push_items(Kind kind, std::vector<const PickleValue*> items) {
    if (kind == Kind::kDict && items.size() % 2 != 0) damaged("has a key without a value");
    push(kind).items = std::move(items);
  }

  void extend(Kind kind, const std::vector<const PickleValue*>& items) {
    PickleValue* target = top();
    if (!target->is(kind)) damaged(fmt::format("adds items to {}", target->kind_name()));
    if (kind == Kind::kDict && items.size() % 2 != 0) damaged("has a key without a value");
    target->items.insert(target->items.end(), items.begin(), items.end());
  }

  void push_global(const std::string& module, const std::string& name) {
    std::string global = module + " " + name;
    if (global != kOrderedDict && globals_.count(global) == 0) {
      fail(
          "{}: holds a {}, which is not read: only tensors in dicts and OrderedDicts are, and nothing of a "
          "file is executed. In Python, save model.state_dict() alone",
          source_, quoted(module + "." + name));
    }
    push(Kind::kGlobal).text = std::move(global);
  }

  void stack_global() {
    const PickleValue* name = pop();
    const PickleValue* module = pop();
    if (!name->is(Kind::kString) || !module->is(Kind::kString)) damaged("names a global by no string");
    push_global(module->text, name->text);
  }

  void reduce() {
    const PickleValue* arguments = pop();
    const PickleValue* callee = pop();
    if (!callee->is(Kind::kGlobal) || !arguments->is(Kind::kTuple)) {
      damaged(fmt::format("calls {} with {}", callee->kind_name(), arguments->kind_name()));
    }
    if (callee->text == kOrderedDict) {
      if (!arguments->items.empty()) damaged("makes an OrderedDict from arguments");
      push(Kind::kDict);
      return;
    }
    PickleValue& call = push(Kind::kCall);
    call.text = callee->text;
    call.items = {arguments};  // no copy: many calls may share the same long arguments
  }

  /// A state dict's attribute _metadata, which says nothing of tensors.
  void build() {
    pop();
    if (!top()->is(Kind::kDict)) damaged(fmt::format("sets attributes of {}", top()->kind_name()));
  }

  void put(std::uint64_t index) { memo_[index] = top(); }

  void get(std::uint64_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) damaged(fmt::format("takes entry {} of the memo, which is not set", index));
    stack_.push_back(found->second);
  }

  void step() {
    switch (opcode_) {
      case kProto:
        check_protocol(number(1));
        return;
      case kFrame:
        number(8);
        return;  // the sizes of frames help who reads from a stream
      case kMark:
        marks_.push_back(stack_.size());
        return;
      case kPop:
        pop();
        return;
      case kPopMark:
        pop_marked();
        return;
      case kDup:
        stack_.push_back(top());
        return;
      case kBinPut:
        put(number(1));
        return;
      case kLongBinPut:
        put(number(4));
        return;
      case kMemoize:
        put(memo_.size());
        return;
      case kBinGet:
        get(number(1));
        return;
      case kLongBinGet:
        get(number(4));
        return;
      case kAppend:
        extend(Kind::kList, pop_last(1));
        return;
      case kAppends:
        extend(Kind::kList, pop_marked());
        return;
      case kSetItem:
        extend(Kind::kDict, pop_last(2));
        return;
      case kSetItems:
        extend(Kind::kDict, pop_marked());
        return;
      case kReduce:
        reduce();
        return;
      case kBuild:
        build();
        return;
      case kStackGlobal:
        stack_global();
        return;
      default:
        step_value();
    }
  }

  /// The opcodes that push a value of their own.
  void step_value() {
    switch (opcode_) {
      case kNone:
        push(Kind::kNone);
        return;
      case kNewTrue:
        push(Kind::kBool).integer = 1;
        return;
      case kNewFalse:
        push(Kind::kBool);
        return;
      case kBinInt:
        push_int(static_cast<std::int32_t>(number(4)));
        return;
      case kBinInt1:
        push_int(static_cast<std::int64_t>(number(1)));
        return;
      case kBinInt2:
        push_int(static_cast<std::int64_t>(number(2)));
        return;
      case kLong1:
        push_long(number(1));
        return;
      case kLong4:
        push_long(number(4));
        return;
      case kBinFloat:
        push_float();
        return;
      case kShortBinString:
      case kShortBinUnicode:
        push_text(Kind::kString, number(1));
        return;
      case kBinString:
      case kBinUnicode:
        push_text(Kind::kString, number(4));
        return;
      case kBinUnicode8:
        push_text(Kind::kString, number(8));
        return;
      case kShortBinBytes:
        push_text(Kind::kBytes, number(1));
        return;
      case kBinBytes:
        push_text(Kind::kBytes, number(4));
        return;
      case kBinBytes8:
        push_text(Kind::kBytes, number(8));
        return;
      case kEmptyTuple:
        push(Kind::kTuple);
        return;
      case kEmptyList:
        push(Kind::kList);
        return;
      case kEmptyDict:
        push(Kind::kDict);
        return;
      case kTuple:
        push_items(Kind::kTuple, pop_marked());
        return;
      case kTuple1:
        push_items(Kind::kTuple, pop_last(1));
        return;
      case kTuple2:
        push_items(Kind::kTuple, pop_last(2));
        return;
      case kTuple3:
        push_items(Kind::kTuple, pop_last(3));
        return;
      case kList:
        push_items(Kind::kList, pop_marked());
        return;
      case kDict:
        push_items(Kind::kDict, pop_marked());
        return;
      case kBinPersid:
        push_items(Kind::kPersistent, pop_last(1));
        return;
      case kGlobal: {
        const std::string module = line();
        push_global(module, line());
        return;
      }
      default:
        damaged(fmt::format("uses opcode 0x{:02x}, which is not read", static_cast<unsigned>(opcode_)));
    }
  }

  void check_protocol(std::uint64_t protocol) const {
    if (protocol < 2 || protocol > 5) {
      fail("{}: pickle protocol {} is not read; 2 to 5 are", source_, protocol);
    }
  }

  std::deque<PickleValue>& values_;
  Bytes bytes_;
  const std::set<std::string>& globals_;
  const std::string& source_;
  std::size_t at_ = 0;
  unsigned char opcode_ = 0;
  std::vector<PickleValue*> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint64_t, PickleValue*> memo_;
};

Pickle::Pickle(Bytes bytes, const std::set<std::string>& globals, const std::string& source)
    : root_(PickleMachine(*this, bytes, globals, source).run()) {}

}  // namespace tessera
