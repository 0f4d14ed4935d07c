"""vLLM engines and the scoring process: started, watched, used, stopped; never imported, never exposed."""
