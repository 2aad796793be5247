"""Many trials as one program: the same minibatch feeds all of them, and weights have a leading axis of trials."""
