#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "memory/memory_config.h"

namespace tessera::memory {

/// The standard normal numbers of one reading; an undefined tensor stands for zeros.
struct EpisodeNoise {
  at::Tensor written;            ///< ξ  [N, E, C], on the codes that are written
  at::Tensor written_addresses;  ///< ξ' [N, E, C], on these again where their addresses are found
  at::Tensor queries;            ///< [N, Q, C]
  at::Tensor addresses;          ///< ε  [N, Q, K]
  at::Tensor codes;              ///< [N, Q, C], on what is read
};

struct EpisodeReading {
  at::Tensor codes;  ///< z_r [N, Q, C], the dtype of the queries
  at::Tensor
      kl;  ///< [N, Q], the dtype of the parameters: KL(address ‖ N(0, I)) in nats, summed over the K slots
  at::Tensor addresses;  ///< w̄ [N, Q, K], likewise, without noise
};

/// Larimar's episodic memory (Das et al. 2024): K slots that an episode of E codes is written into by one
/// least-squares solve, and that are read by address, for which another is solved.
///
///   z̃ = z + σξ;  W = (z̃ + σξ')·M₀⁺;  M = W⁺z̃                     (write)
///   w̄ = (q + σξ)·M⁺;  w = w̄ + e^{v/2}ε;  z_r = wM + σξ            (read)
///
/// Neither M nor a singular value decomposition is computed. With E <= K, z̃ and W have full row rank, so that
/// M⁺ = z̃⁺W and w̄M = q·z̃⁺z̃: all that is needed are Cholesky factors of two E×E matrices an episode and of one
/// K×K matrix, with a ridge (σ², or 1e-10 without noise; relative). Solves run in float64 on any device,
/// without synchronisation, and everything is differentiable; repeated items have finite gradients.
///
/// Without noise the reading is the projection of the query onto the span of what was written, whatever the
/// prior mean is: that one learns through the KL alone.
///
/// Parameters: prior_mean M₀ [K, C], initialised from N(0, 1/C) (a standard normal address then has a code of
/// mean square K/C); address_log_variance v [K], initialised to −4.
class EpisodicMemoryImpl : public torch::nn::Module {
 public:
  /// @param config  slots K, fewer than code_size C; noise σ in training, of codes of unit mean square
  /// @param seed    of the prior mean
  EpisodicMemoryImpl(const MemoryConfig& config, std::uint64_t seed);

  const MemoryConfig& config() const { return config_; }

  /// Writes N episodes, each into a memory of its own, and reads from each with its queries. In training mode
  /// with σ > 0 noise is drawn from the device's generator; in evaluation mode, or with σ = 0, there is none.
  ///
  /// @param written [N, E, C] floating point, E <= K
  /// @param queries [N, Q, C]
  EpisodeReading read_episode(const at::Tensor& written, const at::Tensor& queries);
  /// The same under given noise, in either mode.
  EpisodeReading read_episode(const at::Tensor& written, const at::Tensor& queries,
                              const EpisodeNoise& noise);

  /// Query i of an episode reads a memory into which its items were written but for i and those of i's image
  /// (exactly as if the others had been written alone; where there are none, that memory is empty and gives
  /// zeros). For conditioning a caption on a read-out that has never seen it, nor another caption of its
  /// image: the queries must be codes of the image alone, since a query's own content passes through the
  /// projection.
  ///
  /// @param queries   [N, E, C]
  /// @param image_ids [N, E] int64: items with one id are of one image. Undefined: no two are
  EpisodeReading read_leave_one_out(const at::Tensor& written, const at::Tensor& queries,
                                    const at::Tensor& image_ids);
  EpisodeReading read_leave_one_out(const at::Tensor& written, const at::Tensor& queries,
                                    const at::Tensor& image_ids, const EpisodeNoise& noise);

  at::Tensor prior_mean;            ///< [K, C]
  at::Tensor address_log_variance;  ///< [K]

 private:
  /// @param excluded [N or 1, E, E] bool, true where query i may not read item j; undefined: it may read all
  EpisodeReading read(const at::Tensor& written, const at::Tensor& queries, const EpisodeNoise& noise,
                      const at::Tensor& excluded);
  EpisodeNoise draw(const at::Tensor& written, const at::Tensor& queries) const;
  void check(const at::Tensor& written, const at::Tensor& queries) const;
  at::Tensor same_image(const at::Tensor& written, const at::Tensor& queries,
                        const at::Tensor& image_ids) const;

  MemoryConfig config_;
};
TORCH_MODULE(EpisodicMemory);

/// KL(N(mean, e^log_variance) ‖ N(0, I)) = ½ Σ (e^v + w̄² − 1 − v), summed over the last dimension.
/// @param mean [..., K]; @param log_variance [K]
at::Tensor address_kl(const at::Tensor& mean, const at::Tensor& log_variance);

}  // namespace tessera::memory
