#include "core/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <utility>

#include "core/error.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

/// The descriptor; -1 and errno where it can't be opened.
int try_open(const fs::path& folder) {
  return ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

int open_folder(const fs::path& folder) {
  const int descriptor = try_open(folder);
  if (descriptor < 0) fail("{}: the folder can't be opened: {}", folder.string(), system_message(errno));
  return descriptor;
}

/// 0, or the error.
int lock_descriptor(int descriptor, int how) {
  int result = 0;
  do {
    result = ::flock(descriptor, how);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

bool same_file(const struct stat& left, const struct stat& right) {
  return left.st_dev == right.st_dev && left.st_ino == right.st_ino;
}

/// Whether a process has the folder open.
bool has_open(const std::string& process, const struct stat& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc/" + process + "/fd", error)) {
    struct stat opened = {};
    if (::stat(entry.path().c_str(), &opened) == 0 && same_file(opened, folder)) return true;
  }
  return false;
}

std::string name_of_process(const std::string& process) {
  std::ifstream file("/proc/" + process + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

}  // namespace

FolderLock::FolderLock(const fs::path& folder) : descriptor_(open_folder(folder)) {
  if (const int error = lock_descriptor(descriptor_, LOCK_EX); error != 0) {
    ::close(descriptor_);
    fail("{}: the folder can't be locked: {}", folder.string(), system_message(error));
  }
}

FolderLock FolderLock::try_lock(const fs::path& folder) {
  while (true) {
    const int descriptor = try_open(folder);
    if (descriptor < 0 && errno == ENOENT) return {-1, LockState::kGone};
    if (descriptor < 0) fail("{}: the folder can't be opened: {}", folder.string(), system_message(errno));
    const int error = lock_descriptor(descriptor, LOCK_EX | LOCK_NB);
    if (error != 0) {
      ::close(descriptor);
      return {-1, error == EWOULDBLOCK ? LockState::kTaken : LockState::kImpossible};
    }
    FolderLock lock(descriptor, LockState::kHeld);
    // Who held it may have renamed or removed the folder in between: then this is the lock of another one.
    struct stat locked = {};
    struct stat there = {};
    if (::fstat(descriptor, &locked) == 0 && ::stat(folder.empty() ? "." : folder.c_str(), &there) == 0 &&
        same_file(locked, there))
      return lock;
  }
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

FolderLock::FolderLock(FolderLock&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), state_(other.state_) {}

FolderLock& FolderLock::operator=(FolderLock&& other) noexcept {
  std::swap(descriptor_, other.descriptor_);
  std::swap(state_, other.state_);
  return *this;
}

std::string lock_holder(const fs::path& folder) {
  struct stat wanted = {};
  if (::stat(folder.empty() ? "." : folder.c_str(), &wanted) != 0) return {};
  std::ifstream locks("/proc/locks");
  for (std::string line; std::getline(locks, line);) {
    // "1: FLOCK  ADVISORY  WRITE 4711 08:02:131074 0 EOF". The device there is not always stat's (btrfs), so
    // that the process's open files decide.
    std::istringstream words(line);
    std::string number, kind, mode, access, process, place;
    words >> number >> kind >> mode >> access >> process >> place;
    const auto colon = place.rfind(':');
    if (kind != "FLOCK" || colon == std::string::npos ||
        place.substr(colon + 1) != std::to_string(wanted.st_ino) || !has_open(process, wanted))
      continue;
    std::array<char, 256> host{};
    ::gethostname(host.data(), host.size() - 1);
    return fmt::format("process {} ({}) on {}", process, name_of_process(process), host.data());
  }
  return {};
}

}  // namespace tessera
