"""The asv suite of bioperf, and the scripts that measure it against papers and peers: see README.md."""
