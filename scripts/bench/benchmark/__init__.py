"""Tidemark's benchmark: the same jobs, in the same run, by Tidemark and by the best tools there are for each."""
