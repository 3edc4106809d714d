"""Files: folders on disk or in S3, ranged reads, and torch files read without running them. Imports
`tokenization.errors` alone."""
