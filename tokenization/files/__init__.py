"""Files: folders on disk or in buckets, ranged reads, and torch files read without running them. Imports
`tokenization.errors` alone."""
