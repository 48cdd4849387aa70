"""What everything else stands on: errors, arrays, files and their manifests."""
