"""The parts of the Learner that fastai callbacks see, one a file."""
