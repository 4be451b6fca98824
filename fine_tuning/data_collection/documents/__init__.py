"""Turn a document, such as a handbook, into questions and answers that can be learned.

reading.py    a file, read in a bounded child process -> blocks (headings, paragraphs, lists, tables)
sections.py   blocks -> sections: the blocks under one heading, with the headings above
facts.py      sections -> facts: an answer quoted from the text, and several wordings of a question for it
entailment.py checks that a passage supports a question and its answer
pairs.py      facts -> pairs to teach, and held-out pairs to test with
"""
