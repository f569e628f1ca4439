// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	"regexp"
	"slices"
)

// Selector selects by labels, in the form that they have everywhere in
// Kubernetes. None at all, and an empty one, select everything.
type Selector struct {
	// MatchLabels are labels that must all be there with these values.
	// +optional
	// +kubebuilder:validation:MaxProperties=16
	MatchLabels map[string]LabelValue `json:"matchLabels,omitempty"`
	// MatchExpressions must all be true.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	MatchExpressions []SelectorRequirement `json:"matchExpressions,omitempty"`
}

// LabelValue is the value of a label.
//
// +kubebuilder:validation:MaxLength=63
// +kubebuilder:validation:Pattern=`^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$`
type LabelValue string

// SelectorRequirement is one demand on labels.
//
// +kubebuilder:validation:XValidation:rule="(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",message="In and NotIn need values, Exists and DoesNotExist have none"
type SelectorRequirement struct {
	// Key is the label's.
	// +kubebuilder:validation:MaxLength=317
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`
	Key string `json:"key"`
	// Operator says what must be true of the label.
	Operator SelectorOperator `json:"operator"`
	// Values are those that In and NotIn speak of.
	// +optional
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	Values []LabelValue `json:"values,omitempty"`
}

// SelectorOperator says what must be true of a label.
//
// +kubebuilder:validation:Enum=In;NotIn;Exists;DoesNotExist
type SelectorOperator string

// The operators of a selector.
const (
	SelectIn           SelectorOperator = "In"           // the label is there, with one of the values
	SelectNotIn        SelectorOperator = "NotIn"        // the label isn't there, or has none of the values
	SelectExists       SelectorOperator = "Exists"       // the label is there
	SelectDoesNotExist SelectorOperator = "DoesNotExist" // the label isn't there
)

// Matches tells whether the selector selects what has these labels.
func (s *Selector) Matches(labels map[string]string) bool {
	if s == nil {
		return true
	}
	for key, want := range s.MatchLabels {
		if got, ok := labels[key]; !ok || got != string(want) {
			return false
		}
	}
	return !slices.ContainsFunc(s.MatchExpressions, func(r SelectorRequirement) bool { return !r.matches(labels) })
}

func (r *SelectorRequirement) matches(labels map[string]string) bool {
	value, ok := labels[r.Key]
	switch r.Operator {
	case SelectIn:
		return ok && slices.Contains(r.Values, LabelValue(value))
	case SelectNotIn:
		return !ok || !slices.Contains(r.Values, LabelValue(value))
	case SelectExists:
		return ok
	case SelectDoesNotExist:
		return !ok
	}
	return false
}

func (s *Selector) check(c *checks, field string) {
	if s == nil {
		return
	}
	c.count(field+".matchLabels", len(s.MatchLabels), 16)
	for key, value := range s.MatchLabels {
		value.check(c, field+".matchLabels["+key+"]")
	}
	c.count(field+".matchExpressions", len(s.MatchExpressions), 16)
	for i := range s.MatchExpressions {
		s.MatchExpressions[i].check(c, index(field+".matchExpressions", i))
	}
}

func (r *SelectorRequirement) check(c *checks, field string) {
	key := regexp.MustCompile(`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$`)
	if !key.MatchString(r.Key) || len(r.Key) > 317 {
		c.add(field+".key", "%q must be the key of a label", r.Key)
	}
	c.oneOf(field+".operator", r.Operator, SelectIn, SelectNotIn, SelectExists, SelectDoesNotExist)
	if needs := r.Operator == SelectIn || r.Operator == SelectNotIn; needs != (len(r.Values) > 0) {
		c.add(field+".values", "In and NotIn need values, Exists and DoesNotExist have none")
	}
	c.count(field+".values", len(r.Values), 64)
	for i, value := range r.Values {
		value.check(c, index(field+".values", i))
	}
}

func (v LabelValue) check(c *checks, field string) {
	if !regexp.MustCompile(`^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$`).MatchString(string(v)) || len(v) > 63 {
		c.add(field, "%q must be the value of a label", v)
	}
}
