#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "lora/peft_files.h"

namespace tessera::lora {

/// Named adapters of one module tree, any number in memory, none or one in use. Taking another into use moves
/// pointers, a few for each adapted module, and no number is copied; nothing of the base model is lost,
/// whatever an adapter brings of its own for it (biases, modules_to_save, what PiSSA leaves of a weight).
///
///   AdapterSet adapters(*model);
///   adapters.load("birds", "adapters/birds");
///   adapters.load("ships", "adapters/ships");
///   adapters.use("ships");
///
/// The tree must outlive the set and keep its modules. Adapters take part in the tree's parameters while they
/// are in use alone.
class AdapterSet {
 public:
  /// @throws c10::Error where the tree carries adapters already
  explicit AdapterSet(AdaptableModule& root);
  /// Leaves the base model as it was.
  ~AdapterSet();
  AdapterSet(const AdapterSet&) = delete;
  AdapterSet& operator=(const AdapterSet&) = delete;

  /// A fresh adapter, begun as the options say. Not taken into use.
  /// @throws Error where the name is taken or empty, or as inject_lora does; nothing is added then
  void add(const std::string& name, const LoraOptions& options, std::uint64_t seed);
  /// One from a PEFT folder. Not taken into use.
  /// @throws Error as load_adapter does; nothing is added then
  void load(const std::string& name, const std::filesystem::path& folder);
  void load(const std::string& name, const AdapterFiles& files);
  /// @throws Error as save_adapter does
  void save(const std::string& name, const std::filesystem::path& folder,
            const AdapterDescription& description = {});
  void remove(const std::string& name);

  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return adapters_.count(name) != 0; }
  const LoraOptions& options(const std::string& name) const { return of(name).options; }
  /// The parameters of an adapter, in use or not, under the tree's names.
  TensorMap parameters(const std::string& name) const;

  /// Takes an adapter into use, in place of the present one. An empty name: none, the base model.
  /// @throws Error where there is no such adapter, or the present one is merged
  void use(const std::string& name);
  const std::string& in_use() const { return in_use_; }

  /// Adds the adapter in use to the weights, so that it costs nothing; unmerge brings them back bit for bit.
  /// @throws Error where none is in use
  void merge();
  void unmerge();
  bool is_merged() const { return merged_; }

 private:
  struct Adapter {
    LoraOptions options;
    std::vector<std::pair<NamedLinear, std::shared_ptr<nn::LoraAdapter>>> layers;
    TensorMap replacements;          ///< what stands in for parameters of the base model while it is in use
    std::vector<std::string> saved;  ///< those of the replacements that belong to its file
  };

  const Adapter& of(const std::string& name) const;
  void check_new(const std::string& name) const;
  Adapter make(const LoraOptions& options, std::uint64_t seed);
  void put_in(Adapter& adapter);
  void take_out(Adapter& adapter);
  /// Parameters of the base model and what stands in for them change places.
  void exchange_replacements(Adapter& adapter);

  AdaptableModule& root_;
  std::map<std::string, Adapter> adapters_;
  std::string in_use_;
  bool merged_ = false;
};

}  // namespace tessera::lora
