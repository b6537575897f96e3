"""`python -m fairseq_erpo.huggingface`."""

from fairseq_erpo.huggingface.run import main

if __name__ == "__main__":
    main()
