"""What `python -m fairseq_erpo VERB` runs: doctor, inspect, evaluate, report, variance, convert,
family.
"""
