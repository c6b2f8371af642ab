package drain

// Annotations returns the annotations of pods that verdicts depend on. An adapter need not keep others.
func Annotations() []string {
	return []string{OptOutAnnotation, safeToEvictAnnotation, doNotDisruptAnnotation}
}
