"""The HDF5 store: levels sealed one by one, merged into one file when a run is done."""
