//! What the sled engine promises beyond the contract.
