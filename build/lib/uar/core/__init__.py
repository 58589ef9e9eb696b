"""What every room needs: configuration, errors, files, devices, processes."""
