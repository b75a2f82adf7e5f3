#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace tessera::memory {

/// What a person knows an item by. All UTF-8; the id is not empty.
struct MemoryEntry {
  std::string id;
  std::string caption;
  std::string image;  ///< path or name of the picture; may be empty

  bool operator==(const MemoryEntry&) const = default;
};

struct NearEntry {
  MemoryEntry entry;
  double similarity = 0;  ///< cosine of its code and the read-out
};

struct Recollection {
  at::Tensor code;                 ///< z_r [C] float32; zeros from an empty memory
  double confidence = 0;           ///< in [0, 1]; see MemoryStore::recall
  std::vector<NearEntry> nearest;  ///< most similar first
};

struct MemoryStats {
  std::int64_t entries = 0;
  std::int64_t capacity = 0;   ///< K: from this many entries on, nothing tells written from never-written
  std::int64_t code_size = 0;  ///< C
  std::int64_t rank = 0;   ///< dimensions that are read; entries' codes that repeat or nearly repeat add none
  double condition = 0;    ///< largest over smallest singular value read; 0 where nothing is
  double drift = 0;        ///< largest difference of the memory from a refit, relative to its largest value
  std::int64_t bytes = 0;  ///< of the arrays in the file
};

/// A memory to use after training: pairs are written and forgotten one by one, without training anything (Das
/// et al. 2024, eq. 2-6). K slots by C, K < C, in float64 on the CPU. Codes should have mean square 1, as
/// PairCode's have.
///
/// The address of a code is w = z·M_ref⁺, with the model's prior mean as the fixed reference. With A the K×K
/// accumulator, which starts as a ridge (1e-8 of an address's expected square), and α = +1 to write, −1 to
/// forget:
///
///   A ← A + α wᵀw;   M ← M + α A⁻¹wᵀ(z − wM)
///
/// which keeps M at the ridge-regularised least-squares solution of WM = Z, whatever the order of writes and
/// forgets.
///
/// Reading is the noise-free q·M⁺M: the projection of the query onto the span of M's rows whose singular
/// values are above max(K, C)·ε_float32·σ_max, and which are at most as many as there are entries. Below
/// capacity that is the span of the written codes: each reads back unchanged, a query with an error loses the
/// error's part outside the span, and of a code that was never written the part inside remains (‖z_r‖² ≈ N/C
/// for codes in general position).
///
/// Capacity: with N < K independent codes all of this holds. At N = K the solution turns ill-conditioned
/// (refits then agree to 1e-4 rather than 1e-7), and from there on the span has K dimensions, whatever is
/// written: every query, written or not, keeps K/C of its square, and forgetting one of many entries changes
/// nothing that can be seen. Nothing is refused; `stats` says how full the memory is.
///
/// Several threads may read at once (recall, read, list, stats); the first to do so after a change computes
/// the decompositions, and the others wait. Writing and forgetting are for one thread that is alone with it.
class MemoryStore {
 public:
  /// @param prior_mean  [K, C], K < C, floating point, any device; copied
  /// @param fingerprint of the model whose codes these are; a saved memory is opened with the same one only
  MemoryStore(const at::Tensor& prior_mean, std::string fingerprint);

  /// @param code [C] floating point, any device; kept as float32
  /// @throws Error where the id is empty or already there, a text is no UTF-8, the code has another size, is
  ///         not finite, is zero or has a mean square far from 1; the memory is then unchanged
  void write(const at::Tensor& code, const MemoryEntry& entry);

  /// @throws Error naming near ids where there is no such entry
  void forget(const std::string& id);

  /// Reads with a code, for instance of an image alone.
  ///
  /// The read-out is a combination Σ aᵢzᵢ of the written codes. The confidence is max aᵢ² / Σ aᵢ², how far it
  /// is one of them, times ‖z_r‖²/‖q‖², the share of the query that the memory knows. Two entries of the same
  /// code share it, so that it is at most a half.
  ///
  /// @throws Error where the query has another size, is not finite or is zero
  Recollection recall(const at::Tensor& query, std::int64_t nearest = 3) const;

  /// The read-outs of many queries, [Q, C] → [Q, C] float32, without entries and confidence.
  at::Tensor read(const at::Tensor& queries) const;

  const std::vector<MemoryEntry>& list() const { return entries_; }  ///< in the order of writing
  MemoryStats stats() const;
  std::int64_t code_size() const { return prior_mean_.size(1); }
  std::int64_t capacity() const { return prior_mean_.size(0); }
  const std::string& fingerprint() const { return fingerprint_; }

  /// One safetensors file, replaced as a whole. Throws Error naming the file.
  void save(const std::filesystem::path& path) const;
  /// @param fingerprint of the model in use; nothing: whichever the file was written with, for listing and
  ///                    forgetting, which need no codes
  /// @throws Error naming the file where it is damaged, no memory, of another version, or of another model
  ///         than `fingerprint`
  static MemoryStore load(const std::filesystem::path& path, const std::optional<std::string>& fingerprint);

 private:
  /// What reading needs, computed from the state above it.
  struct Reader {
    at::Tensor basis;         ///< [C, rank] orthonormal, float64
    at::Tensor coefficients;  ///< Z⁺ [C, N] float64
    double condition = 0;
  };

  /// Filled by the first of the threads that read.
  struct ReaderOfNow {
    std::mutex mutex;
    std::optional<Reader> reader;
  };

  /// The memory as one least-squares solution, from the codes alone.
  struct Solution {
    at::Tensor accumulator;  ///< A [K, K]
    at::Tensor memory;       ///< M [K, C]
  };

  Solution solve_anew() const;
  /// The arrays of a memory without entries.
  void clear();
  void update(const at::Tensor& code, double alpha);
  static void check_scale(const at::Tensor& rows, const std::string& what);
  at::Tensor checked(const at::Tensor& code, const std::string& what) const;
  Reader solved_reader() const;
  const Reader& reader() const;
  at::Tensor addresses(const at::Tensor& codes) const;
  std::int64_t find(const std::string& id) const;
  void check_agreement(const std::string& file) const;

  at::Tensor prior_mean_;  ///< M_ref [K, C] float32
  at::Tensor reference_;   ///< M_ref⁺ [C, K] float64
  double ridge_ = 0;
  std::string fingerprint_;
  std::vector<MemoryEntry> entries_;
  at::Tensor codes_;                     ///< [N, C] float32, row i of entry i
  at::Tensor memory_;                    ///< M [K, C] float64
  at::Tensor accumulator_;               ///< A [K, K] float64
  std::shared_ptr<ReaderOfNow> reader_;  ///< a new one after each change; copies share it until then
};

}  // namespace tessera::memory
