#include "core/mapped_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <utility>

#include "core/error.h"

namespace tessera {

namespace {

/// The mappings that there are, for the handler of SIGBUS: a signal carries an address and no object, so they
/// have to stand where a function can find them. A slot is free where its size is 0. Its name is written
/// before its size and never freed, so that the handler may read it at any moment.
struct MappingSlot {
  std::atomic<std::uintptr_t> begin{0};
  std::atomic<std::size_t> size{0};
  std::array<char, 512> name{};
};

constexpr std::size_t kMappingSlots = 256;  // a file that finds none is mapped all the same, and not named

std::array<MappingSlot, kMappingSlots> mapping_slots;
std::mutex mapping_slots_mutex;
struct sigaction bus_error_action_before;

void write_to_standard_error(const char* text, std::size_t size) {
  // Nothing can be done about a message that doesn't get through.
  const ssize_t ignored = ::write(STDERR_FILENO, text, size);
  static_cast<void>(ignored);
}

/// Calls only what a handler may call.
void name_the_file(int, siginfo_t* info, void*) {
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  const bool has_address = info->si_code > 0;  // not sent by a program
  for (const MappingSlot& slot : mapping_slots) {
    const std::size_t size = has_address ? slot.size.load(std::memory_order_acquire) : 0;
    const std::uintptr_t begin = slot.begin.load(std::memory_order_relaxed);
    if (size == 0 || address < begin || address - begin >= size) continue;
    constexpr char kError[] = "error: ";
    constexpr char kWhat[] =
        ": can't be read any more: the file was shortened, or its disk failed, while it was in use\n";
    write_to_standard_error(kError, sizeof(kError) - 1);
    write_to_standard_error(slot.name.data(), ::strnlen(slot.name.data(), slot.name.size()));
    write_to_standard_error(kWhat, sizeof(kWhat) - 1);
    ::_exit(1);
  }
  // Not one of ours: whoever was to see it sees it when the instruction is tried again.
  ::sigaction(SIGBUS, &bus_error_action_before, nullptr);
}

void enter_slot(Bytes bytes, const std::string& name) {
  const std::scoped_lock lock(mapping_slots_mutex);
  static const bool installed = [] {
    struct sigaction action {};
    action.sa_sigaction = name_the_file;
    action.sa_flags = SA_SIGINFO;
    return ::sigaction(SIGBUS, &action, &bus_error_action_before) == 0;
  }();
  static_cast<void>(installed);
  const auto slot = std::find_if(mapping_slots.begin(), mapping_slots.end(),
                                 [](const MappingSlot& candidate) { return candidate.size == 0; });
  if (slot == mapping_slots.end()) return;
  const std::size_t length = std::min(name.size(), slot->name.size() - 1);
  std::copy_n(name.data(), length, slot->name.data());
  slot->name[length] = '\0';
  slot->begin.store(reinterpret_cast<std::uintptr_t>(bytes.data()), std::memory_order_relaxed);
  slot->size.store(bytes.size(), std::memory_order_release);
}

void leave_slot(Bytes bytes) {
  const std::scoped_lock lock(mapping_slots_mutex);
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes.data());
  for (MappingSlot& slot : mapping_slots) {
    if (slot.size != 0 && slot.begin == begin) slot.size = 0;
  }
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path, Access access)
    : MappedFile(RegularFile(path), access) {}

MappedFile::MappedFile(const RegularFile& file, Access access) : path_(file.path()) {
  const bool copies = access == Access::kCopyOnWrite;
  void* address = ::mmap(nullptr, file.size(), copies ? PROT_READ | PROT_WRITE : PROT_READ,
                         copies ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED, file.descriptor(), 0);
  if (address == MAP_FAILED) {
    fail("{}: can't be mapped: {}", path_.string(), system_message(errno));
  }
  bytes_ = Bytes(static_cast<const std::byte*>(address), file.size());
  enter_slot(bytes_, path_.string());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  leave_slot(bytes_);
  ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace tessera
