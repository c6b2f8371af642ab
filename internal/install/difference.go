package install

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// bookkeeping are fields of the metadata that the API server writes.
var bookkeeping = []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp"}

// content returns an object without what the API server writes of its own.
func content(object *unstructured.Unstructured) map[string]any {
	if object == nil {
		return nil
	}
	own := maps.Clone(object.Object)
	delete(own, "status")
	if metadata, is := own["metadata"].(map[string]any); is {
		metadata = maps.Clone(metadata)
		for _, field := range bookkeeping {
			delete(metadata, field)
		}
		own["metadata"] = metadata
	}
	return own
}

// differences returns one line per field that differs: its path, the value before, and the value after.
func differences(path string, before, after any) []string {
	if a, is := before.(map[string]any); is {
		if b, is := after.(map[string]any); is {
			return differentKeys(path, a, b)
		}
	}
	if a, is := before.([]any); is {
		if b, is := after.([]any); is && len(a) == len(b) {
			var found []string
			for i := range a {
				found = append(found, differences(fmt.Sprintf("%s[%d]", path, i), a[i], b[i])...)
			}
			return found
		}
	}
	if a, b := compact(before), compact(after); a != b {
		return []string{fmt.Sprintf("%s: %s -> %s", path, a, b)}
	}
	return nil
}

func differentKeys(path string, before, after map[string]any) (found []string) {
	keys := map[string]any{}
	maps.Copy(keys, before)
	maps.Copy(keys, after)
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		inner := key
		if path != "" {
			inner = path + "." + key
		}
		found = append(found, differences(inner, before[key], after[key])...)
	}
	return found
}

// compact returns a value in one line of JSON. A missing one is null.
func compact(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		return fmt.Sprint(value)
	}
	return string(text)
}
