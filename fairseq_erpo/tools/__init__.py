"""What `python -m fairseq_erpo VERB` runs: inspect, evaluate, report, variance, family."""
